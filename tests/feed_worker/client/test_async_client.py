import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest
import redis

from feed_worker.client import AsyncClient, FeedTimeout, NoFeed
from feed_worker.client.ready_subscription import Listener
from feed_worker.client.refresh import Wanted
from feed_worker.documents.feed import Feed
from infra.ports.errors import BrokerUnreachable, RedisUnreachable
from infra.ports.redis import connect
from infra.ports.settings import Settings
from infra.stack.embedded import EmbeddedRedis
from tests.feed_worker.client.answering import T0, answer, feed_of, new_user, requests_of

pytestmark = pytest.mark.embedded


def with_client(settings: Settings, story: Callable[[AsyncClient], Awaitable[None]]) -> None:
    async def run() -> None:
        async with AsyncClient(settings) as client:
            await story(client)

    asyncio.run(run())


def subscribers(settings: Settings) -> int:
    client = connect(settings)
    count = len([each for each in client.client_list() if int(each["sub"]) > 0])
    client.close()
    return count


async def until_subscribed(settings: Settings, connections: int) -> None:
    async with asyncio.timeout(60):
        while subscribers(settings) != connections:
            await asyncio.sleep(0.05)


def test_many_waits_at_once_share_one_subscription_and_no_thread(servers: Settings) -> None:
    users = [new_user() for _ in range(300)]

    async def story(client: AsyncClient) -> None:
        requests = {user: await client.request_feed(user) for user in users}
        threads = threading.active_count()
        waits = [asyncio.create_task(client.wait(user, requests[user], 60)) for user in users for _ in (1, 2)]
        await until_subscribed(servers, 1)
        assert threading.active_count() == threads
        feeds = [feed_of(user, requests[user]) for user in users]
        await asyncio.to_thread(lambda: [answer(servers, feed) for feed in feeds])
        assert await asyncio.gather(*waits) == [feed for feed in feeds for _ in (1, 2)]
        await until_subscribed(servers, 0)
        assert client._reads.ready._channels == {}

    with_client(servers, story)


def test_repeated_waits_for_one_user_are_each_answered(servers: Settings) -> None:
    user = new_user()

    async def story(client: AsyncClient) -> None:
        for round_ in range(20):
            request = await client.request_feed(user)
            waiting = asyncio.create_task(client.wait(user, request, 60))
            given_up = asyncio.create_task(client.wait(user, "another", 60))
            await asyncio.sleep(0.001 * (round_ % 4))
            given_up.cancel()
            feed = await asyncio.to_thread(answer, servers, feed_of(user, request, T0 + round_))
            assert await waiting == feed

    with_client(servers, story)


def test_an_announcement_ends_a_wait_before_the_next_read(servers: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feed_worker.client.async_client.LOOK_AGAIN_S", 1_000.0)
    user = new_user()

    async def story(client: AsyncClient) -> None:
        waiting = asyncio.create_task(client.wait(user, "r", 60))
        await asyncio.sleep(0.2)
        feed = await asyncio.to_thread(answer, servers, feed_of(user, "r"))
        assert await waiting == feed

    with_client(servers, story)


def test_each_wait_ends_with_its_own_timeout_error(servers: Settings) -> None:
    users = [new_user() for _ in range(20)]

    async def story(client: AsyncClient) -> None:
        waits = [client.wait(user, "r", 0.2) for user in users]
        errors = await asyncio.gather(*waits, return_exceptions=True)
        assert all(isinstance(error, FeedTimeout) for error in errors)
        assert [str(user) in str(error) for user, error in zip(users, errors, strict=True)] == [True] * len(users)

    with_client(servers, story)


def test_a_failed_request_ends_its_wait_and_the_old_feed_stays(servers: Settings) -> None:
    user = new_user()

    async def story(client: AsyncClient) -> None:
        old = await asyncio.to_thread(answer, servers, feed_of(user, "old"))
        waiting = asyncio.create_task(client.wait(user, "new", 60))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(answer, servers, feed_of(user, "new", T0 + 1, "failed"))
        with pytest.raises(NoFeed):
            await waiting
        assert await client.feed(user) == old

    with_client(servers, story)


def test_a_stale_feed_is_returned_at_once_and_requested_again_only_once(
    servers: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = new_user()

    async def all_stand(_user: int, post_ids: list[str], **_options: object) -> list[str]:
        return post_ids

    async def story(client: AsyncClient) -> None:
        monkeypatch.setattr(client, "check", all_stand)
        old = await asyncio.to_thread(answer, servers, feed_of(user, "old"))
        assert await client.fresh(user, max_age_ms=600_000) == (old, False)
        many = await asyncio.gather(*(client.fresh(user, max_age_ms=-1, timeout_s=0) for _ in range(50)))
        assert many == [(old, True)] * 50
        assert len(await client.flush()) == 1
        request = client._pending.of(Wanted.of(str(user), {}))
        assert request is not None
        new = await asyncio.to_thread(answer, servers, feed_of(user, request, T0 + 1))
        assert await client.fresh(user, max_age_ms=-1, timeout_s=60) == (new, False)
        assert await client.fresh(user, max_age_ms=600_000) == (new, False)

    with_client(servers, story)


def test_an_error_inside_the_block_delivers_the_events_published_before_it(servers: Settings) -> None:
    user = new_user()

    async def story(client: AsyncClient) -> None:
        await client.request_feed(user)
        raise LookupError("the app's own")

    with pytest.raises(LookupError, match="the app's own"):
        with_client(servers, story)
    assert len(requests_of(servers, user)) == 1


def test_a_missing_server_is_named_with_its_address(servers: Settings) -> None:
    async def nothing(client: AsyncClient) -> None:
        """Never reached."""

    with pytest.raises(BrokerUnreachable, match=r"127\.0\.0\.1:1 "):
        with_client(servers.model_copy(update={"kafka": "127.0.0.1:1"}), nothing)
    with pytest.raises(RedisUnreachable, match=r"redis://127\.0\.0\.1:1/0 "):
        with_client(servers.model_copy(update={"redis": "redis://127.0.0.1:1/0"}), nothing)


def test_a_wait_survives_a_lost_connection_and_ends_with_a_lost_server(
    servers: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first, second = new_user(), new_user()
    with EmbeddedRedis(tmp_path_factory.mktemp("own")) as own:
        settings = servers.model_copy(update={"redis": own.address})

        async def story(client: AsyncClient) -> None:
            waiting = asyncio.create_task(client.wait(first, "r", 60))
            await asyncio.sleep(0.2)
            with redis.Redis.from_url(own.address) as other:
                other.client_kill_filter(_type="pubsub")
            feed: Feed = await asyncio.to_thread(answer, settings, feed_of(first, "r"))
            assert await waiting == feed
            waiting = asyncio.create_task(client.wait(second, "r", 60))
            await asyncio.sleep(0.2)
            own.stop()
            with pytest.raises(RedisUnreachable, match=own.address):
                await waiting

        with_client(settings, story)


@pytest.mark.parametrize("steps", range(4))
def test_a_cancellation_that_comes_with_an_announcement_ends_the_wait(steps: int) -> None:
    async def story() -> None:
        listener = Listener()

        async def wait() -> None:
            while True:
                await listener.wait(0.05)

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        listener.wake()
        for _ in range(steps):
            await asyncio.sleep(0)
        waiting.cancel()
        ended, _ = await asyncio.wait([waiting], timeout=10)
        assert ended

    asyncio.run(story())
