import msgspec
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feed_worker.feed import Explanation, Feed
from feed_worker.feed_store import Answer, FeedStore
from infra.redis import subscription

T0 = 1_700_000_000_000


def feed(at: int = T0, user: str = "did:plc:a", answers: tuple[str, ...] = ("r",)) -> Feed:
    return Feed(
        at=at,
        request_id=answers[0],
        user_id=user,
        status="empty",
        generated_at=at,
        model_version="m",
        parameters="p",
        items=[],
        degradations=[],
        answers=list(answers),
    )


def explanation(at: int = T0, user: str = "did:plc:a") -> Explanation:
    return Explanation(
        at=at,
        request_id="r",
        user_id=user,
        status="empty",
        parameters="p",
        degradations=[],
        funnel=[],
        timings_ms={},
        items=[],
        dropped=[],
    )


def test_a_feed_is_read_back_as_it_was_written(valkey: redis.Redis) -> None:
    store = FeedStore(valkey, ttl_s=60)
    store.write([Answer(feed(), explanation())])
    assert store.feed("did:plc:a") == feed()
    assert store.explanation("did:plc:a") == explanation()
    assert 0 < valkey.ttl("feed:{did:plc:a}") <= 60
    assert store.feed("somebody else") is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(st.lists(st.integers(T0, T0 + 9), min_size=1))
def test_an_older_request_never_overwrites_a_newer_feed(valkey: redis.Redis, times: list[int]) -> None:
    valkey.flushall()
    store = FeedStore(valkey, ttl_s=60)
    for number, at in enumerate(times):
        store.write([Answer(feed(at, answers=(str(number),)), None)])
    written = store.feed("did:plc:a")
    assert written is not None
    assert written.at == max(times)


def test_every_request_that_was_answered_is_announced_even_where_a_newer_feed_stays(valkey: redis.Redis) -> None:
    store = FeedStore(valkey, ttl_s=60)
    with subscription(valkey) as announced:
        announced.subscribe("feed-ready:{did:plc:a}")
        announced.get_message(timeout=5)
        store.write([Answer(feed(T0, answers=("a", "b")), None), Answer(feed(T0 - 1, answers=("c",)), None)])
        heard = [announced.get_message(timeout=5) for _ in range(3)]
    assert [message["data"] for message in heard if message] == [b"a", b"b", b"c"]


def test_the_documents_first_field_is_what_writers_compare(valkey: redis.Redis) -> None:
    FeedStore(valkey, ttl_s=60).write([Answer(feed(), None)])
    document = valkey.get("feed:{did:plc:a}")
    assert isinstance(document, bytes)
    assert document.startswith(b'{"at":%d,' % T0)
    assert msgspec.json.decode(document)["user_id"] == "did:plc:a"
