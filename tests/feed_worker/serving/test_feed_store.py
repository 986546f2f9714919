from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from feed_worker.documents.explanation import Explanation
from feed_worker.documents.feed import Feed, FeedItem
from feed_worker.serving import feed_store
from feed_worker.serving.feed_store import Answer, FeedStore
from infra.ports.broken_keys import broken_keys
from infra.ports.redis import subscription
from tests.feed_worker.client.answering import explanation_in, feed_in, record_in, replaced_in
from thunder_ingest.events import FeedServed, FeedStatus, pack

T0 = 1_700_000_000_000
USER = "did:plc:a"


def feed(
    at: int = T0,
    answers: Sequence[str] = ("r",),
    status: FeedStatus = "empty",
    items: int = 0,
    arrived_at: int | None = None,
    offset: int = 0,
) -> Feed:
    item: dict[str, Any] = {"author_id": "2", "kind": "original", "source": "thunder", "in_network": True}
    item |= {"score": 0.5, "created_at": T0, "reasons": []}
    return Feed(
        at=at,
        request_id=answers[0],
        user_id=USER,
        status=status,
        generated_at=at,
        model_version="m",
        parameters="p",
        items=[FeedItem(rank=rank, post_id=str(rank), **item) for rank in range(1, items + 1)],
        degradations=['a text with "items":[] in it'],
        answers=list(answers),
        arrived_at=at if arrived_at is None else arrived_at,
        offset=offset,
    )


def explanation(at: int = T0, request_id: str = "r") -> Explanation:
    return Explanation(
        at=at,
        request_id=request_id,
        user_id=USER,
        status="empty",
        parameters="p",
        degradations=[],
        funnel=[],
        timings_ms={},
        items=[],
        dropped=[],
    )


def answer(
    written: Feed, explained: Explanation | None = None, served_at: int | None = None, *, withdraws: bool = False
) -> Answer:
    records = [
        FeedServed(
            request_id=request_id,
            user_id=1,
            user_form=USER,
            at=written.at,
            served_at=served_at or written.generated_at,
            status=written.status,
            model_version="m",
            parameters="p",
            post_ids=[2**62 + item.rank for item in written.items],
        )
        for request_id in written.answers
    ]
    return Answer(written, explained, records, withdraws)


def test_a_feed_is_read_back_as_it_was_written(valkey: redis.Redis) -> None:
    store = FeedStore(valkey, ttl_s=60)
    store.write([answer(feed(), explanation())])
    assert feed_in(valkey, USER) == feed()
    assert explanation_in(valkey, USER) == explanation()
    assert 0 < valkey.ttl("feed:{did:plc:a}") <= 60
    assert 60 < valkey.ttl("answered:{did:plc:a}") <= 3_600
    assert feed_in(valkey, "another-user") is None
    assert record_in(valkey, USER, "another") is None


class Write(NamedTuple):
    """One computation of a request; repeated computations may have different results."""

    request: int
    others: tuple[int, ...]
    status: FeedStatus
    items: int
    explained: bool
    withdraws: bool


STATUSES: list[tuple[FeedStatus, int]] = [("ok", 1), ("degraded", 2), ("empty", 0), ("expired", 0), ("failed", 0)]
TIMES = [T0 + request % 3 for request in range(6)]
OFFSETS = [1, 0, 9, 10, 0, 2]
"""The time and the offset of each request; some are equal."""
writes = st.lists(
    st.builds(
        lambda request, others, outcome, explained, withdraws: Write(
            request, tuple(others - {request}), outcome[0], outcome[1], explained, withdraws and outcome[0] == "empty"
        ),
        st.integers(0, 5),
        st.sets(st.integers(0, 5), max_size=2),
        st.sampled_from(STATUSES),
        st.booleans(),
        st.booleans(),
    ),
    max_size=12,
)


class Model:
    """A reference model of the state in Redis."""

    def __init__(self) -> None:
        self.feed: Feed | None = None
        self.explanation: Explanation | None = None
        self.replaced: list[Feed] = []
        self.answered: dict[str, FeedServed] = {}

    def write(self, written: Answer) -> list[FeedServed]:
        new, known = written.feed, self.feed
        if new.request_id not in self.answered:
            is_older = known is not None and (new.arrived_at, new.offset) < (known.arrived_at, known.offset)
            if known is None:
                replaces = True
            elif is_feed(new) != is_feed(known):
                replaces = is_feed(new)
            elif known.items and not new.items:
                replaces = written.withdraws and not is_older
            else:
                replaces = not is_older
            if replaces and known and is_feed(known):
                self.replaced.insert(0, known)
            if not replaces and is_feed(new):
                self.replaced.insert(0, new)
            self.feed = new if replaces else known
            if replaces or not (new.items or is_older):
                self.explanation = written.explanation or self.explanation
        first = self.answered.get(new.request_id)
        records = [replace(first or record, request_id=record.request_id) for record in written.served]
        return [self.answered.setdefault(record.request_id, record) for record in records]


def is_feed(known: Feed) -> bool:
    return known.status not in ("expired", "failed")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(writes)
def test_any_writes_in_any_order_and_number_leave_the_state_of_the_rules(
    valkey: redis.Redis, sequence: list[Write]
) -> None:
    valkey.flushall()
    store, model = FeedStore(valkey, ttl_s=60), Model()
    for request, others, status, items, explained, withdraws in sequence:
        written = feed(
            TIMES[request], [str(each) for each in (request, *others)], status, items, offset=OFFSETS[request]
        )
        reasons = explanation(written.at, written.request_id) if explained else None
        each = answer(written, reasons, withdraws=withdraws)
        assert store.write([each]) == [pack(record) for record in model.write(each)]
        assert feed_in(valkey, USER) == model.feed
        assert explanation_in(valkey, USER) == model.explanation
        assert replaced_in(valkey, USER) == model.replaced
    for request_id in map(str, range(6)):
        assert record_in(valkey, USER, request_id) == model.answered.get(request_id)


def test_answers_written_together_equal_answers_written_one_by_one(valkey: redis.Redis) -> None:
    store = FeedStore(valkey, ttl_s=60)
    first, second = answer(feed(T0, ["a", "b"], "ok", 2)), answer(feed(T0 + 1, ["c", "a"], "ok", 1))
    records = store.write([first, second])
    assert records == [pack(record) for record in (*first.served, second.served[0], first.served[0])]
    assert feed_in(valkey, USER) == second.feed
    assert store.write([]) == []


def test_a_second_computation_gives_its_merged_requests_the_first_answer(valkey: redis.Redis) -> None:
    store = FeedStore(valkey, ttl_s=60)
    first, long_id = answer(feed(T0, ["a"], "ok", 2)), "b" * 200
    store.write([first])
    store.write([answer(feed(T0, ["a", long_id], "ok", 1))])
    assert feed_in(valkey, USER) == first.feed
    assert record_in(valkey, USER, long_id) == replace(first.served[0], request_id=long_id)


def test_every_answered_request_is_announced_even_if_a_newer_feed_stays(valkey: redis.Redis) -> None:
    store = FeedStore(valkey, ttl_s=60)
    with subscription(valkey) as announced:
        announced.subscribe("feed-ready:{did:plc:a}")
        announced.get_message(timeout=5)
        store.write([answer(feed(T0, ["a", "b"])), answer(feed(T0 - 1, ["c"])), answer(feed(T0, ["a"]))])
        heard = [announced.get_message(timeout=5) for _ in range(4)]
    assert [message["data"] for message in heard if message] == [b"a", b"b", b"c", b"a"]


def test_a_viewer_has_a_bounded_number_of_entries_and_the_newest_answers_are_among_them(
    valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_store, "FULL_LEDGER", 8)
    store = FeedStore(valkey, ttl_s=60)
    for number in range(60):
        written = answer(feed(T0 + number, [str(number)], "ok", 1))
        assert store.write([written]) == [pack(written.served[0])]
        kept = {request_id for request_id in map(str, range(60)) if record_in(valkey, USER, request_id)}
        assert kept >= {str(each) for each in range(max(0, number - 7), number + 1)}
        assert len(kept) <= 16
        assert store.are_answered([(USER, str(number)), (USER, "60")]) == [True, False]
    assert [each.request_id for each in replaced_in(valkey, USER)] == [str(number) for number in range(58, 42, -1)]
    assert valkey.ttl("replaced:{did:plc:a}") <= feed_store.REPLACED_TTL_S
    old = next(each for each in map(str, range(52)) if record_in(valkey, USER, each))
    again = store.write([answer(feed(T0 + 99, [old], "ok", 2))])
    assert again == [pack(record_in(valkey, USER, old) or answer(feed()).served[0])]
    assert (feed_in(valkey, USER) or feed()).request_id == "59"


def test_one_call_of_the_script_writes_few_records_however_many_requests_an_answer_has(valkey: redis.Redis) -> None:
    store, names = FeedStore(valkey, ttl_s=60), [str(number) for number in range(1_000)]
    written = answer(feed(T0, names, "ok", 1))
    valkey.config_resetstat()
    assert store.write([written]) == [pack(record) for record in written.served]
    calls = valkey.info("commandstats")
    assert calls["cmdstat_publish"]["calls"] == len(names)
    assert calls["cmdstat_eval"]["calls"] >= len(names) / 32
    assert (feed_in(valkey, USER) or feed()).answers == names


def test_a_feed_of_an_earlier_version_is_older_than_any_later_request(valkey: redis.Redis) -> None:
    document = msgspec.json.encode(feed(T0, ["old"], "ok", 1))
    document = document.replace(b',"surface":"","arrived_at":%d,"offset":0' % T0, b"")
    valkey.set("feed:{did:plc:a}", document)
    FeedStore(valkey, ttl_s=60).write([answer(feed(T0 + 1, ["new"], "ok", 1))])
    assert (feed_in(valkey, USER) or feed()).request_id == "new"


def test_the_arrival_orders_feeds_whatever_the_clocks_of_the_apps_show(valkey: redis.Redis) -> None:
    store = FeedStore(valkey, ttl_s=60)
    fast = feed(T0 + 60_000, ["fast"], "ok", 2, arrived_at=T0)
    right = feed(T0 + 20, ["right"], "ok", 1, arrived_at=T0 + 20)
    store.write([answer(fast), answer(right)])
    assert feed_in(valkey, USER) == right
    store.write([answer(feed(T0 + 90_000, ["late"], "ok", 3, arrived_at=T0 + 10))])
    assert feed_in(valkey, USER) == right


def test_the_offset_orders_the_feeds_of_requests_that_arrived_together(valkey: redis.Redis) -> None:
    store = FeedStore(valkey, ttl_s=60)
    second = feed(T0, ["second"], "ok", 1, offset=10)
    store.write([answer(second), answer(feed(T0, ["first"], "ok", 1, offset=9))])
    assert feed_in(valkey, USER) == second
    third = feed(T0, ["third"], "ok", 1, offset=11)
    store.write([answer(third)])
    assert feed_in(valkey, USER) == third


def test_a_refusal_that_is_newer_does_not_keep_a_feed_away(valkey: redis.Redis) -> None:
    store = FeedStore(valkey, ttl_s=60)
    store.write([answer(feed(T0 + 5, ["refused"], "failed")), answer(feed(T0, ["r"], "ok", 2))])
    assert (feed_in(valkey, USER) or feed()).request_id == "r"


def test_arrival_and_offset_are_the_last_fields_of_a_feed_document_and_the_time_the_first(valkey: redis.Redis) -> None:
    FeedStore(valkey, ttl_s=60).write([answer(feed(arrived_at=T0 + 7, offset=9))])
    document = valkey.get("feed:{did:plc:a}")
    assert isinstance(document, bytes)
    assert document.startswith(b'{"at":%d,' % T0)
    assert document.endswith(b'"arrived_at":%d,"offset":9}' % (T0 + 7))


BROKEN = {
    "string": lambda client, key: client.set(key, "x"),
    "list": lambda client, key: client.rpush(key, "x"),
    "set": lambda client, key: client.sadd(key, "x"),
    "hash": lambda client, key: client.hset(key, "x", "y"),
}
HELD = {"feed": "string", "explain": "string", "answered": "hash", "answered-before": "hash", "replaced": "list"}


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in HELD for kind in BROKEN if kind != HELD[name]])
def test_a_key_of_another_type_is_replaced_and_the_answer_is_written(valkey: redis.Redis, name: str, kind: str) -> None:
    store, key, skipped = FeedStore(valkey, ttl_s=60), f"{name}:{{{USER}}}", broken_keys.count
    before, after = (
        answer(feed(T0, ("before",), "ok", 1)),
        answer(feed(T0 + 1, ("r", "merged"), "ok", 2), explanation()),
    )
    store.write([before])
    valkey.delete(key)
    BROKEN[kind](valkey, key)
    assert store.are_answered([(USER, "r")]) == [False]
    assert store.write([after]) == [pack(record) for record in after.served]
    assert feed_in(valkey, USER) == after.feed
    assert explanation_in(valkey, USER) == after.explanation
    assert record_in(valkey, USER, "merged") == after.served[1]
    assert store.are_answered([(USER, "r"), (USER, "merged")]) == [True, True]
    assert all(valkey.type(f"{each}:{{{USER}}}") in (b"none", HELD[each].encode()) for each in HELD)
    store.write([answer(feed(T0 + 2, ("next",), "ok", 1))])  # a feed is replaced, so its list is used
    assert replaced_in(valkey, USER)[0] == after.feed
    assert broken_keys.count == skipped + (name != "explain")  # SET replaces a value of any type


def test_all_keys_of_an_answer_share_the_users_slot(valkey: redis.Redis) -> None:
    FeedStore(valkey, ttl_s=60).write([answer(feed(), explanation())])
    assert {bytes(key).partition(b":")[2] for key in valkey.scan_iter()} == {b"{did:plc:a}"}
