"""Each request is answered, with faults in any step."""

from collections.abc import Callable
from typing import cast

import msgspec
import pytest
import redis

from feed_worker.candidates.query import Query
from feed_worker.client.answer_lookup import decode_feed
from feed_worker.documents.build import feed_of
from feed_worker.serving import delivery
from feed_worker.serving.feed_store import Answer, FeedStore
from infra.ports.clock import WallClock
from infra.ports.settings import Settings
from infra.ports.topic_reader import scan
from tests.feed_worker.client.answering import feed_in, record_in
from tests.feed_worker.serving.test_feed_store import answer as answer_of
from tests.feed_worker.serving.test_feed_store import feed as feed_document
from tests.feed_worker.serving.worker.running import (
    answers,
    ask,
    await_commit,
    eventually,
    pipeline_on,
    published,
    request,
    running,
    viewers,
)
from thunder_ingest.events import (
    Block,
    DeadLetter,
    FeedServed,
    Follow,
    Post,
    encode,
    unpack_dead_letter,
)
from thunder_ingest.events.ids import published_form
from thunder_ingest.events.redis_keys import feed_key, preview_key, user_key
from thunder_ingest.posts.store import PostStore
from thunder_ingest.users.entries import updates_of
from thunder_ingest.users.redis_form import UserStates

pytestmark = pytest.mark.embedded


def test_an_invalid_message_becomes_a_whole_dead_letter_and_the_worker_continues(
    settings: Settings, store: PostStore
) -> None:
    asked = request()
    far = request(at=WallClock().now_ms() + 10 * settings.future_tolerance_ms)
    with running(settings, store):
        ask(settings, b"not a request", far, asked)
        assert [record.status for record in answers(settings, [asked])] == ["ok"]
        await_commit(settings)
    dead_letters: list[DeadLetter] = [
        unpack_dead_letter(m.value() or b"") for batch in scan(settings, ["dead-letters"]) for m in batch
    ]
    assert {each.value for each in dead_letters} >= {b"not a request", encode(far)}
    assert [[record.status for record in copies] for copies in published(settings, [far])] == [["failed"]]


class FailsFor(Exception):
    pass


@pytest.mark.parametrize("step", ["gather", "rank", "finish", "feed_of"])
def test_a_request_that_raises_is_failed_and_the_others_are_answered(
    settings: Settings, store: PostStore, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    poison, others = request(), [request() for _ in range(5)]
    pipeline = pipeline_on(store, UserStates(client))

    def raising(original: Callable[..., object], mentions: Callable[..., bool]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            if mentions(*arguments):
                raise FailsFor(step)
            return original(*arguments)

        return call

    def is_poison(query: Query) -> bool:
        return query.request.request_id == poison.request_id

    if step == "feed_of":
        made = raising(feed_of, lambda result, *_: is_poison(result.query) and result.status != "failed")
        monkeypatch.setattr(delivery, "feed_of", made)
    elif step == "gather":
        monkeypatch.setattr(pipeline, "gather", raising(pipeline.gather, lambda queries: any(map(is_poison, queries))))
    else:
        original = getattr(pipeline, step)
        setattr(pipeline, step, raising(original, lambda runs: any(is_poison(run.query) for run in runs)))
    with running(settings, store, pipeline):
        ask(settings, poison, *others)
        assert [record.status for record in answers(settings, [poison, *others])] == ["failed", *5 * ["ok"]]
        await_commit(settings)
    feed = feed_in(client, published_form(poison.user_id))
    assert feed is not None
    assert feed.degradations == ["FailsFor"]


def test_a_request_that_is_refused_is_answered_with_the_reason_where_its_asker_can_be_read(
    settings: Settings, store: PostStore, client: redis.Redis
) -> None:
    good = request()
    far = request(at=WallClock().now_ms() + settings.future_tolerance_ms + 60_000)
    fields = [
        {"size": 500},
        {"at": WallClock().now_ms() // 1_000},
        {"at": "now"},
        {"seen_ids": [1] * 10_001},
        {"langs": "en"},
        {"type": None},
        {"request_id": 5},
        {"request_id": "x" * 256},
        {"request_id": "ü" * 4_096},
    ]
    broken = [msgspec.json.encode(msgspec.to_builtins(request()) | each) for each in fields]
    askers = [(str(each["user_id"]), str(each["request_id"])) for each in map(msgspec.json.decode, broken)]

    def records() -> list[FeedServed]:
        found = [record_in(client, *asker) for asker in askers]
        return [record for record in found if record]

    with running(settings, store) as worker:
        ask(settings, *broken, far, b'{"request_id":"r","user_id":"a b"}', good)
        assert [record.status for record in answers(settings, [good, far])] == ["ok", "failed"]
        eventually(lambda: len(records()) == len(askers))
        await_commit(settings)
    assert worker.failure is None
    expected = ("size", "seconds, most likely", "got `str`", "seen_ids", "langs", "type", *["$.request_id"] * 3)
    for served, reason in zip(records(), expected, strict=True):
        assert served.status == "failed"
        assert served.degradations[0].startswith("refused: ")
        assert reason in served.degradations[0]
    record = record_in(client, str(far.user_id), far.request_id)
    assert record is not None
    assert "s ahead of the arrival" in record.degradations[0]
    letters = [unpack_dead_letter(m.value() or b"") for batch in scan(settings, ["dead-letters"]) for m in batch]
    assert {each.value for each in letters} >= {*broken, encode(far)}


def test_a_request_with_ten_thousand_long_seen_ids_is_answered_and_a_larger_one_gets_the_reason(
    settings: Settings, store: PostStore
) -> None:
    seen = [f"at://{number:06}/{'x' * 243}" for number in range(10_000)]
    asked = request(seen_ids=[*seen[1:], 40], size=40)
    larger = msgspec.structs.replace(request(), seen_ids=[each + "x" * 80 for each in seen])
    with running(settings, store) as worker:
        ask(settings, asked, larger)
        answer, refused = answers(settings, [asked, larger])
        await_commit(settings)
    assert worker.failure is None
    assert answer.status == "ok"
    assert 40 not in answer.post_ids
    assert refused.status == "failed"
    assert "bytes; at most 3,145,728 are allowed" in refused.degradations[0]


def test_a_request_that_was_answered_before_keeps_its_answer(
    settings: Settings, store: PostStore, client: redis.Redis
) -> None:
    asked = request()
    document = msgspec.structs.replace(feed_document(asked.at, [asked.request_id], "ok", 2), user_id=str(asked.user_id))
    before: Answer = answer_of(document)
    FeedStore(client, 60).write([before])
    users = UserStates(client)
    users.add_served(str(asked.user_id), before.served[0].post_ids, asked.at, asked.request_id)
    ask(settings, asked)
    with running(settings, store) as worker:
        await_commit(settings)
        assert worker.figure("foryou_requests_repeated_total") == 1
    assert published(settings, [asked]) == [list(before.served)]
    assert feed_in(client, str(asked.user_id)) == document
    (state,) = users.read([str(asked.user_id)])
    assert state.served_ids.tolist() == before.served[0].post_ids


def test_a_lost_or_broken_state_fails_its_own_viewer_with_the_reason_and_a_lost_register_fails_all(
    settings: Settings, store: PostStore, client: redis.Redis
) -> None:
    lost, broken, new, blocked = 42, 7, 43, 72
    users = UserStates(client)
    for number, target in enumerate((blocked, 70)):
        users.append(updates_of(Follow(user_id=lost, target_id=target, at=1_700_000_000_000)), f"0-{number}")
    users.append(updates_of(Block(user_id=lost, target_id=blocked, at=1_700_000_000_001)), "0-9")
    with running(settings, store):
        asked = request(lost)
        ask(settings, asked)
        assert [record.status for record in answers(settings, [asked])] == ["ok"]
        client.delete(user_key(str(lost)))
        client.set(user_key(str(broken)), "x")
        requests = [request(lost), request(broken), request(new)]
        ask(settings, *requests)
        records = answers(settings, requests)
        assert [record.status for record in records] == ["failed", "failed", "ok"]
        assert "the state of user 42 is missing in Redis" in records[0].degradations[0]
        assert "user:{7} in Redis cannot be read" in records[1].degradations[0]
        client.flushall()
        requests = [request(lost), request(new)]
        ask(settings, *requests)
        assert [record.status for record in answers(settings, requests)] == ["failed", "failed"]


def test_a_check_is_answered_by_the_safety_rules_alone_and_leaves_no_trace(
    settings: Settings, store: PostStore, client: redis.Redis
) -> None:
    now_ms = WallClock().now_ms()
    store.apply(
        [Post(post_id=3, author_id=0, labels={"spam": now_ms}), Post(post_id=4, author_id=0, deleted_at=now_ms)]
    )
    user = next(viewers)
    feed_before, check = request(user), request(user, check_ids=[5, 3, 4, 6, 999])
    with running(settings, store) as worker:
        ask(settings, feed_before)
        answers(settings, [feed_before])
        before = client.get(feed_key(str(user))), client.hgetall(user_key(str(user)))
        ask(settings, check)
        eventually(lambda: client.get(preview_key(str(user), check.request_id)) is not None)
        key = preview_key(str(user), check.request_id)
        answer = decode_feed(key, cast(bytes, client.get(key)))
        await_commit(settings)
        assert (client.get(feed_key(str(user))), client.hgetall(user_key(str(user)))) == before
    assert worker.failure is None
    assert answer is not None
    assert (answer.status, {item.post_id for item in answer.items}) == ("ok", {"5", "6"})
    assert record_in(client, str(user), check.request_id) is None
    assert published(settings, [check]) == [[]]
