import asyncio
from collections.abc import Iterator

import pytest

from feed_worker.client import AsyncClient, Client, FeedTimeout
from feed_worker.client.redis_reads import RedisReads
from infra.ports.errors import RedisUnreachable
from infra.ports.redis import connect
from infra.ports.settings import Settings
from infra.stack.embedded import EmbeddedRedis
from tests.feed_worker.client.answering import T0, answer, feed_of, new_user

pytestmark = pytest.mark.embedded


@pytest.fixture
def own_redis(servers: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings with a Redis that a test may hang."""
    with EmbeddedRedis(tmp_path_factory.mktemp("own")) as own:
        yield servers.model_copy(update={"redis": own.address})


def hang(settings: Settings) -> None:
    """Let Redis accept connections and commands, and reply to none."""
    client = connect(settings)
    client.client_pause(3_600_000)
    client.close()


def test_the_waits_of_a_client_keep_their_timeouts_if_redis_hangs(
    own_redis: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(own_redis.model_copy(update={"redis": f"{own_redis.redis}?socket_timeout=3600"}))
    hang(own_redis)
    with pytest.raises(FeedTimeout, match="Redis does not reply"):
        client.wait(new_user(), "r", timeout_s=0.3)
    with pytest.raises(RedisUnreachable, match="no Redis answers"):
        client.fresh(new_user(), timeout_s=0.3)
    monkeypatch.setattr(RedisReads.read, "__defaults__", (0.3,))
    with pytest.raises(RedisUnreachable, match="no Redis answers"):
        client.feed(new_user())
    with pytest.raises(RedisUnreachable, match="no Redis answers"):
        client.explain(new_user())
    client.close()


def test_the_waits_of_an_asyncio_client_keep_their_timeouts_if_redis_hangs(own_redis: Settings) -> None:
    async def story() -> None:
        async with AsyncClient(own_redis) as client:
            await asyncio.to_thread(hang, own_redis)
            with pytest.raises(FeedTimeout, match="Redis does not reply"):
                await client.wait(new_user(), "r", timeout_s=0.3)
            with pytest.raises(RedisUnreachable, match="no Redis answers"):
                await client.fresh(new_user(), timeout_s=0.3)

    asyncio.run(story())


def test_every_read_names_a_redis_that_is_lost(servers: Settings, tmp_path_factory: pytest.TempPathFactory) -> None:
    own, user = EmbeddedRedis(tmp_path_factory.mktemp("lost")).start(), new_user()
    with Client(servers.model_copy(update={"redis": own.address})) as client:
        own.stop()
        for read in (lambda: client.wait(user, "r"), lambda: client.feed(user), lambda: client.explain(user)):
            with pytest.raises(RedisUnreachable, match=own.address):
                read()
        with pytest.raises(RedisUnreachable, match=own.address):
            client.fresh(user)


def test_health_checks_of_the_redis_connection_do_not_disturb_waits(servers: Settings) -> None:
    settings = servers.model_copy(update={"redis": servers.redis + "?health_check_interval=1"})
    first, second = new_user(), new_user()

    async def story() -> None:
        async with AsyncClient(settings) as client:
            waits = [asyncio.create_task(client.wait(first, "r", 60))]
            await asyncio.sleep(1.3)  # the next message finds the health check due
            waits.append(asyncio.create_task(client.wait(second, "r", 60)))
            await asyncio.sleep(0.3)
            feeds = [await asyncio.to_thread(answer, servers, feed_of(user, "r")) for user in (first, second)]
            assert await asyncio.gather(*waits) == feeds

    asyncio.run(story())


def test_a_client_that_closes_ends_running_waits_and_opens_no_connection(servers: Settings) -> None:
    async def story() -> None:
        async with AsyncClient(servers) as client:
            waits = [asyncio.create_task(client.wait(new_user(), "r", 60)) for _ in range(3)]
            await asyncio.sleep(0.3)
        for error in await asyncio.gather(*waits, return_exceptions=True):
            assert isinstance(error, RedisUnreachable)
        assert client._reads.ready._client.connection_pool._in_use_connections == set()

    asyncio.run(story())


def test_fresh_keeps_its_timeout_while_the_queue_of_the_producer_is_full(servers: Settings) -> None:
    with_feed, without_feed = new_user(), new_user()
    answer(servers, feed_of(with_feed, "old", T0))  # without an answer to its check it may show a hidden post

    async def story() -> None:
        async with AsyncClient(servers) as client:
            client._outbox.offer = lambda message: False  # type: ignore[method-assign]
            for user in (with_feed, without_feed):
                with pytest.raises(FeedTimeout, match="queue is full"):
                    await client.fresh(user, max_age_ms=-1, timeout_s=0.2)

    asyncio.run(story())
    with Client(servers) as client:
        client._outbox.offer = lambda message: False  # type: ignore[method-assign]
        for user in (with_feed, without_feed):
            with pytest.raises(FeedTimeout, match="queue is full"):
                client.fresh(user, max_age_ms=-1, timeout_s=0.2)
