import asyncio
import threading

import pytest
from confluent_kafka import Consumer, TopicPartition

from feed_worker.client import AsyncClient, Client, NotServable
from feed_worker.serving.worker_registry import READY_KEY, WorkerRegistry
from infra.ports.kafka_admin import ends_of
from infra.ports.kafka_config import consumer_config, group
from infra.ports.producer import KafkaProducer, Record
from infra.ports.redis import RedisRetry
from infra.ports.settings import Settings
from tests.feed_worker.client.answering import T0, new_user
from thunder_ingest.events import AccountState, key_of_id, pack

pytestmark = pytest.mark.embedded


def commit(settings: Settings, flow: str, offsets: dict[tuple[str, int], int]) -> None:
    """Commit as a flow does at the end of an epoch."""
    consumer = Consumer(consumer_config(settings, group(settings, flow)))
    consumer.commit(offsets=[TopicPartition(*part, end) for part, end in offsets.items()], asynchronous=False)
    consumer.close()


def assert_servable_once_read(client: Client, settings: Settings, topic: str) -> None:
    """A ready worker keeps events from being servable until it has read a topic to its end."""
    worker = WorkerRegistry(client.redis, RedisRetry(settings, threading.Event()))
    worker.register()
    with pytest.raises(NotServable, match=rf"worker \d+ is \d+ records of {topic} behind"):
        client.wait_servable(0.2)
    worker.heartbeat({f"{topic}-{part}": end for (_, part), end in ends_of(settings, [topic]).items()})
    client.wait_servable(30)
    worker.unregister()


def test_a_follow_is_servable_once_its_flow_has_committed_it(servers: Settings) -> None:
    follow = {"type": "follow", "user_id": new_user(), "target_id": 7, "at": T0}
    with Client(servers) as client:
        client.publish(follow)
        delivered = client.flush()
        with pytest.raises(NotServable, match=r"in time: flows\.engagements is .* messages behind"):
            client.wait_servable(0.2)
        commit(servers, "flows.engagements", delivered)
        client.wait_servable(30)

    async def story() -> None:
        async with AsyncClient(servers) as client:
            await client.publish(follow)
            delivered = await client.flush()
            with pytest.raises(NotServable, match=r"flows\.engagements is .* messages behind"):
                await client.wait_servable(0.2)
            commit(servers, "flows.engagements", delivered)
            await client.wait_servable(30)

    asyncio.run(story())


def test_a_post_is_servable_once_every_ready_worker_has_applied_its_record(
    servers: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feed_worker.serving.worker_registry.POSITIONS_S", 0.0)
    user = new_user()
    with Client(servers) as client:
        client.redis.delete(READY_KEY)
        client.publish({"type": "post_created", "post_id": user, "author_id": user, "at": T0})
        commit(servers, "flows.posts", client.flush())
        publisher = KafkaProducer(servers)
        publisher.publish([Record("thunder-posts", b"%d" % user, b"applied by no test")])
        publisher.flush()
        with pytest.raises(NotServable, match="no worker is ready"):
            client.wait_servable(0.2)
        assert_servable_once_read(client, servers, "thunder-posts")


def test_the_state_of_an_account_is_servable_once_every_ready_worker_has_read_it(
    servers: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feed_worker.serving.worker_registry.POSITIONS_S", 0.0)
    user = new_user()
    with Client(servers) as client:
        client.redis.delete(READY_KEY)
        client.publish({"type": "account", "user_id": user, "status": "suspended", "at": T0})
        commit(servers, "flows.engagements", client.flush())
        publisher = KafkaProducer(servers)
        state = AccountState(user_id=user, status="suspended", at=T0)
        publisher.publish([Record("accounts", key_of_id(user), pack(state))])
        publisher.flush()
        assert_servable_once_read(client, servers, "accounts")
