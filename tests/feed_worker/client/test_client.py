import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
import redis
from msgspec.structs import replace

from feed_worker.client import AsyncClient, Client, FeedTimeout, NoFeed
from feed_worker.client.outbox import Outbox
from feed_worker.serving.feed_store import FeedStore
from infra.ports.broken_keys import broken_keys
from infra.ports.redis import connect
from infra.ports.settings import Settings
from tests.feed_worker.client.answering import T0, answer, feed_of, new_user, requests_of
from thunder_ingest.events import FeedRequest, Refused
from thunder_ingest.events.ids import published_form

pytestmark = pytest.mark.embedded


@pytest.fixture(autouse=True)
def _all_stand(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker answers checks here, so all items stand, but in the tests of checks."""
    if "check" not in request.node.name:
        monkeypatch.setattr(Client, "check", lambda _, __, post_ids, **___: list(map(published_form, post_ids)))


@pytest.fixture
def client(servers: Settings) -> Iterator[Client]:
    with Client(servers) as connected:
        yield connected


@contextmanager
def answered_soon(settings: Settings, *feeds: object) -> Iterator[None]:
    """Feeds that are written a moment later, one after the other."""
    timer = threading.Timer(0.2, lambda: [answer(settings, feed) for feed in feeds])  # type: ignore[arg-type]
    timer.start()
    yield
    timer.join()


def test_a_wait_returns_the_feed_that_is_announced(client: Client, servers: Settings) -> None:
    user = new_user()
    request = client.request_feed(user)
    with answered_soon(servers, feed := feed_of(user, request)):
        assert client.wait(user, request, timeout_s=30) == feed


def test_an_answer_from_before_the_wait_is_found(client: Client, servers: Settings) -> None:
    user = new_user()
    feed = answer(servers, feed_of(user, "r"))
    assert client.wait(user, "r", timeout_s=30) == feed


def test_a_wait_returns_the_answer_to_its_own_request_whatever_came_before_or_after_it(
    client: Client, servers: Settings
) -> None:
    user = new_user()
    widget = answer(servers, feed_of(user, "widget", T0, surface="widget"))
    home = answer(servers, feed_of(user, "home", T0 + 1, surface="home"))
    older = answer(servers, feed_of(user, "older", T0 + 2, arrived_at=T0 - 1))
    for feed in (widget, home, older):
        assert client.wait(user, feed.request_id, timeout_s=30) == feed
    assert client.feed(user) == home


def test_a_request_whose_feed_was_replaced_many_times_has_no_feed(client: Client, servers: Settings) -> None:
    user = new_user()
    for number in range(20):
        answer(servers, feed_of(user, f"r{number}", T0 + number))
    assert client.wait(user, "r3", timeout_s=30).request_id == "r3"
    with pytest.raises(NoFeed, match="its feed was replaced by those of later requests"):
        client.wait(user, "r2", timeout_s=30)


@pytest.mark.parametrize("status", ["failed", "expired"])
def test_a_request_without_a_feed_raises_its_status_and_the_old_feed_stays(
    client: Client, servers: Settings, status: str
) -> None:
    user = new_user()
    old = answer(servers, feed_of(user, "old"))
    without = feed_of(user, "new", T0 + 1, status, degradations=["overloaded: too many"])  # type: ignore[arg-type]
    with answered_soon(servers, without), pytest.raises(NoFeed, match="overloaded: too many") as raised:
        client.wait(user, "new", timeout_s=30)
    assert (raised.value.status, raised.value.degradations) == (status, ["overloaded: too many"])
    assert client.feed(user) == old


def test_an_empty_answer_reaches_its_asker_and_the_old_feed_stays(client: Client, servers: Settings) -> None:
    user = new_user()
    old = answer(servers, feed_of(user, "old"))
    empty = feed_of(user, "new", T0 + 1, "empty", degradations=["nothing to show: the worker has no posts"])
    with answered_soon(servers, empty):
        assert client.wait(user, "new", timeout_s=30) == empty
    assert client.feed(user) == old
    assert client.fresh(user) == (old, False)
    assert client.fresh(user, max_age_ms=-1, timeout_s=0) == (old, True)
    client.flush()
    (asked,) = requests_of(servers, user)
    answer(servers, feed_of(user, asked.request_id, T0 + 2, "empty"))
    assert client.fresh(user, max_age_ms=-1, timeout_s=30) == (old, True)


def test_without_a_feed_an_empty_answer_is_the_feed(client: Client, servers: Settings) -> None:
    user = new_user()
    empty = answer(servers, feed_of(user, "r", status="empty"))
    assert client.feed(user) == empty
    assert client.fresh(user) == (empty, False)


def test_a_failed_first_request_raises_no_feed(client: Client, servers: Settings) -> None:
    user = new_user()
    answer(servers, feed_of(user, "r", status="failed"))
    with pytest.raises(NoFeed, match="worker's log"):
        client.wait(user, "r", timeout_s=30)


def test_a_request_that_no_worker_would_take_is_refused_before_it_is_sent(client: Client, servers: Settings) -> None:
    user = new_user()
    with pytest.raises(Refused, match="seconds, most likely"):
        client.request_feed(user, at=T0 // 1_000)
    with pytest.raises(Refused, match="seconds, most likely"):
        client.publish({"type": "block", "user_id": user, "target_id": 2, "at": T0 // 1_000})
    with pytest.raises(Refused, match="bytes; at most 3,145,728 are allowed"):
        client.request_feed(user, seen_ids=["x" * 400] * 10_000)
    with pytest.raises(Refused, match="size"):
        client.request_feed(user, size=500)
    client.flush()
    assert requests_of(servers, user) == []


NO_USERS: list[Any] = ["\ud800", b"x", 0, 2**63, "", "x" * 256, 1.5, True, None]
NO_EVENTS: list[Any] = [
    *(5, None, "x", b"x", object(), [5], ["x"], [[]]),
    *({"type": "follow", "user_id": 1, "target_id": each, "at": T0} for each in (b"x", object(), "\ud800", {1, b"x"})),
    {"type": "post_created", "post_id": 1, "author_id": 2, "at": T0, "text": "half a pair: \ud800"},
    {"type": "feed_request", "request_id": "r", "user_id": 1, "at": T0, "seen_ids": [b"x"]},
    {(1, 2): 3},
]


@pytest.mark.parametrize("user", NO_USERS, ids=repr)
def test_an_invalid_user_is_refused_in_one_line(client: Client, servers: Settings, user: Any) -> None:
    calls: list[Callable[[Client | AsyncClient], Any]] = [
        lambda each: each.request_feed(user),
        lambda each: each.wait(user, "r", 0.1),
        lambda each: each.fresh(user, timeout_s=0.1),
        lambda each: each.feed(user),
        lambda each: each.explain(user),
    ]

    async def story() -> None:
        async with AsyncClient(servers) as asynchronous:
            for call in calls:
                with pytest.raises(Refused, match=r"^[^\n]+user_id`$"):
                    await call(asynchronous)

    for call in calls:
        with pytest.raises(Refused, match=r"^[^\n]+user_id`$"):
            call(client)
    asyncio.run(story())


def test_an_invalid_event_is_refused_in_one_line(client: Client, servers: Settings) -> None:
    async def story() -> None:
        async with AsyncClient(servers) as asynchronous:
            for event in NO_EVENTS:
                with pytest.raises(Refused, match=r"^[^\n]+$"):
                    await asynchronous.publish(event)

    for event in NO_EVENTS:
        with pytest.raises(Refused, match=r"^[^\n]+$"):
            client.publish(event)
    asyncio.run(story())


def test_an_invalid_request_id_is_refused(client: Client) -> None:
    for request_id in ("\ud800", b"r", 5):
        with pytest.raises(Refused, match="a request id is"):
            client.wait(1, cast(str, request_id), 0.1)


BROKEN_DOCUMENTS: list[Callable[[redis.Redis, int], object]] = [
    lambda valkey, user: valkey.set(f"feed:{{{user}}}", "x"),
    lambda valkey, user: valkey.set(f"feed:{{{user}}}", b"\xff"),
    lambda valkey, user: valkey.set(f"feed:{{{user}}}", '{"at": 5}'),
    lambda valkey, user: valkey.lpush(f"replaced:{{{user}}}", "x"),
    lambda valkey, user: valkey.set(f"replaced:{{{user}}}", "x"),
    lambda valkey, user: valkey.hset(f"answered:{{{user}}}", "r", "x"),
    lambda valkey, user: valkey.set(f"preview:{{{user}}}:r", "x"),
    lambda valkey, user: valkey.set(f"explain:{{{user}}}", "x"),
]


@pytest.mark.parametrize("number", range(len(BROKEN_DOCUMENTS)))
def test_a_document_that_cannot_be_read_counts_as_missing(client: Client, servers: Settings, number: int) -> None:
    user, valkey = new_user(), cast(redis.Redis, connect(servers))
    BROKEN_DOCUMENTS[number](valkey, user)
    skipped = broken_keys.count

    async def story() -> None:
        async with AsyncClient(servers) as asynchronous:
            assert (await asynchronous.feed(user), await asynchronous.explain(user)) == (None, None)
            for call in (asynchronous.wait(user, "r", 0.1), asynchronous.fresh(user, timeout_s=0.1)):
                with pytest.raises(FeedTimeout):
                    await call

    assert (client.feed(user), client.explain(user)) == (None, None)
    with pytest.raises(FeedTimeout):
        client.wait(user, "r", 0.1)
    with pytest.raises(FeedTimeout):
        client.fresh(user, timeout_s=0.1)
    asyncio.run(story())
    feed = answer(servers, feed_of(user, "next"))
    assert client.wait(user, "next", timeout_s=30) == client.feed(user) == feed
    later = answer(servers, feed_of(user, "later", T0 + 1))
    assert client.fresh(user, max_age_ms=600_000).feed == later
    assert client.wait(user, "next", timeout_s=30) == feed
    assert broken_keys.count > skipped
    valkey.close()


def test_a_wait_without_an_answer_names_the_next_step(client: Client) -> None:
    user = new_user()
    request = client.request_feed(user)
    client.flush()
    with pytest.raises(FeedTimeout, match=f"no answer to request {request} of user {user} within 0.1 s.*foryou doctor"):
        client.wait(user, request, timeout_s=0.1)


def test_a_young_feed_is_returned_without_a_request(client: Client, servers: Settings) -> None:
    user = new_user()
    feed = answer(servers, feed_of(user, "r"))
    assert client.fresh(user, max_age_ms=600_000) == (feed, False)
    client.flush()
    assert requests_of(servers, user) == []


def test_a_young_feed_of_another_surface_is_not_the_one_that_is_wanted(client: Client, servers: Settings) -> None:
    user = new_user()
    home = answer(servers, feed_of(user, "home", T0, surface="home"))
    widget = answer(servers, feed_of(user, "widget", T0 + 1, surface="widget"))
    answer(servers, feed_of(user, "none", T0 + 2, "failed", surface="search"))
    assert client.fresh(user, max_age_ms=600_000, surface="home", size=8) == (home, False)
    assert client.fresh(user, max_age_ms=600_000, surface="widget", size=1) == (widget, False)
    for surface in ("search", "profile", None):
        with pytest.raises(FeedTimeout):
            client.fresh(user, max_age_ms=600_000, timeout_s=0.1, surface=surface)
    client.flush()
    assert {request.surface for request in requests_of(servers, user)} == {"search", "profile", None}


def test_pending_requests_of_two_surfaces_are_two(client: Client, servers: Settings) -> None:
    user = new_user()
    for surface, size in (("home", 8), ("widget", 1), ("home", 8)):
        with pytest.raises(FeedTimeout):
            client.fresh(user, timeout_s=0.1, surface=surface, size=size)
    client.flush()
    assert [(request.surface, request.size) for request in requests_of(servers, user)] == [("home", 8), ("widget", 1)]


def test_an_old_feed_is_replaced_if_a_new_one_comes_in_time(client: Client, servers: Settings) -> None:
    user = new_user()
    answer(servers, feed_of(user, "old"))
    assert client.fresh(user, max_age_ms=-1, timeout_s=0).is_stale
    client.flush()
    (asked,) = requests_of(servers, user)
    with answered_soon(servers, feed := feed_of(user, asked.request_id, T0 + 1)):
        assert client.fresh(user, max_age_ms=-1, timeout_s=30) == (feed, False)
    client.flush()
    assert len(requests_of(servers, user)) == 1  # the one that was under way


def test_an_old_feed_is_returned_as_stale_if_no_new_one_comes_or_the_request_fails(
    client: Client, servers: Settings
) -> None:
    user = new_user()
    old = answer(servers, feed_of(user, "old"))
    assert client.fresh(user, max_age_ms=-1, timeout_s=0.1) == (old, True)
    client.flush()
    (asked,) = requests_of(servers, user)
    answer(servers, feed_of(user, asked.request_id, T0 + 1, "failed"))
    assert client.fresh(user, max_age_ms=-1, timeout_s=30) == (old, True)


def test_without_an_old_feed_a_timeout_is_an_error(client: Client) -> None:
    with pytest.raises(FeedTimeout):
        client.fresh(new_user(), timeout_s=0.1)


def test_the_next_page_names_the_one_before_and_is_later(client: Client, servers: Settings) -> None:
    user, ahead = new_user(), 2 * T0  # a page that was asked for on a machine whose clock is ahead
    with pytest.raises(Refused), pytest.raises(FeedTimeout):
        client.next_page(feed_of(user, "first", 200 * T0), timeout_s=0.1)
    with pytest.raises(FeedTimeout):
        client.next_page(feed_of(user, "first", ahead), timeout_s=0.1, size=3)
    client.flush()
    (asked,) = requests_of(servers, user)
    assert (asked.after, asked.at, asked.size) == ("first", ahead + 1, 3)


def test_an_error_inside_the_block_delivers_the_events_published_before_it(servers: Settings) -> None:
    user = new_user()

    def block() -> None:
        with Client(servers) as client:
            client.publish(FeedRequest(request_id="r", user_id=user, at=T0))
            raise LookupError("the app's own")

    with pytest.raises(LookupError, match="the app's own"):
        block()
    assert [request.request_id for request in requests_of(servers, user)] == ["r"]


def test_an_error_inside_the_block_is_raised_with_a_note_if_kafka_is_away(servers: Settings) -> None:
    def block() -> None:
        with Client(servers) as client:
            away = servers.model_copy(update={"kafka": "127.0.0.1:1"})
            client._outbox, flush = Outbox(away), client.flush
            client.flush = lambda timeout_s=0.1: flush(0.1)  # type: ignore[method-assign]
            client.publish(FeedRequest(request_id="r", user_id=new_user(), at=T0))
            raise LookupError("the app's own")

    with pytest.raises(LookupError, match="the app's own") as raised:
        block()
    assert ["1 messages were not taken" in note for note in raised.value.__notes__] == [True]


def test_a_broker_that_is_away_is_named_by_the_wait(servers: Settings) -> None:
    client, away = Client(servers), servers.model_copy(update={"kafka": "127.0.0.1:1"})
    client._settings, client._outbox = away, Outbox(away)
    user = new_user()
    request = client.request_feed(user)
    with pytest.raises(FeedTimeout, match=r"Kafka at 127.0.0.1:1 has not taken it yet"):
        client.wait(user, request, timeout_s=0.1)
    client.close()


@contextmanager
def checked_soon(settings: Settings, user: int, standing: bool) -> Iterator[None]:
    """A worker that answers the next check of a user."""
    redis = connect(settings)

    def check() -> None:
        while not (requests := [each for each in requests_of(settings, user) if each.check_ids is not None]):
            time.sleep(0.05)
        answered = feed_of(user, requests[-1].request_id, status="ok" if standing else "empty")
        FeedStore(redis, settings.feed_ttl_s).write_previews([answered])

    thread = threading.Thread(target=check)
    thread.start()
    yield
    thread.join()
    redis.close()


def test_a_check_returns_the_posts_that_still_stand_and_leaves_no_trace(client: Client, servers: Settings) -> None:
    user = new_user()
    before = answer(servers, feed_of(user, "r"))
    with checked_soon(servers, user, standing=True):
        assert client.check(user, [7, "gone"], timeout_s=30) == ["7"]
    assert client.feed(user) == before
    assert client.check(user, []) == []


@pytest.mark.parametrize("max_age_ms", [600_000, -1])
def test_fresh_leaves_out_what_no_longer_stands_by_a_check(
    client: Client, servers: Settings, max_age_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feed_worker.client.client.CHECK_S", 30.0)
    user = new_user()
    old = answer(servers, feed_of(user, "r"))
    with checked_soon(servers, user, standing=False):
        fresh = client.fresh(user, max_age_ms=max_age_ms, timeout_s=0.2 if max_age_ms < 0 else 30)
    assert fresh == (replace(old, items=[], status="empty"), True)


def test_without_an_answer_to_its_check_fresh_returns_no_old_feed(client: Client, servers: Settings) -> None:
    user = new_user()
    answer(servers, feed_of(user, "r"))
    with pytest.raises(FeedTimeout):
        client.fresh(user, max_age_ms=600_000, timeout_s=0)
