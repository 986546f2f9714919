from datetime import timedelta
from pathlib import Path
from typing import Any

import redis
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, TestingSource, run_main

from flows.decoding import Decoder
from flows.engagements import UserWrites, build_flow
from flows.sources import Batch
from infra.ports.clock import HOUR_MS, LogClock, now_ms
from infra.ports.producer import Record
from infra.ports.settings import Settings
from tests.flows.messages import batch
from thunder_ingest.events import (
    ACTION_INDEX,
    IMPRESSION,
    Block,
    Engagement,
    Event,
    Follow,
    Impression,
    PostCounts,
    unpack_counts,
)
from thunder_ingest.users.redis_form import UserStates

T0 = 1_700_000_000_000


def favorite(user: int = 1, post: int = 10, at: int = T0, undo: bool | None = None) -> Engagement:
    return Engagement(user_id=user, post_id=post, author_id=7, action="favorite", at=at, undo=undo)


def seen(user: int = 1, post: int = 10, at: int = T0) -> Impression:
    return Impression(user_id=user, post_id=post, author_id=7, at=at)


def run(
    engagements: list[Any], graph: list[Any] | None = None, recovery: RecoveryConfig | None = None
) -> tuple[list[UserWrites], list[Record]]:
    users, records = list[UserWrites](), list[list[Record]]()
    flow = build_flow(
        TestingSource[Batch](engagements),
        TestingSource[Batch](graph or []),
        TestingSink(users),
        TestingSink(records),
        Decoder(Settings(), LogClock()),
        48 * HOUR_MS,
    )
    run_main(flow, recovery_config=recovery, epoch_interval=timedelta(0))
    return [each for each in users if each.entries], [record for each in records for record in each]


def counts(records: list[Record]) -> dict[int, PostCounts]:
    found = [unpack_counts(record.value or b"") for record in records if record.topic == "post-counts"]
    return {each.post_id: each for each in found}


def test_actions_and_impressions_are_counted_for_each_post() -> None:
    events: list[Event] = [seen(), favorite(), seen(user=2), favorite(post=11)]
    _, records = run([batch("engagements", *events)])
    totals = counts(records)
    assert (totals[10].totals[ACTION_INDEX["favorite"]], totals[10].totals[IMPRESSION]) == (1, 2)
    assert totals[11].totals[ACTION_INDEX["favorite"]] == 1


def test_an_undone_action_is_subtracted() -> None:
    _, records = run([batch("engagements", favorite(), favorite(at=T0 + 1, undo=True))])
    assert sum(counts(records)[10].totals) == 0


def test_a_crash_and_a_replay_count_nothing_twice(tmp_path: Path) -> None:
    init_db_dir(tmp_path, 1)
    recovery = RecoveryConfig(str(tmp_path))
    steps = [
        batch("engagements", favorite(), start=0),
        batch("engagements", favorite(user=2), start=1),
        TestingSource.ABORT(),
        batch("engagements", favorite(user=3), start=2),
    ]
    source = list(steps)
    _, first = run(source, recovery=recovery)
    _, second = run(source, recovery=recovery)
    assert counts(first + second)[10].totals[ACTION_INDEX["favorite"]] == 3


def test_a_refused_engagement_is_a_dead_letter_and_the_rest_is_written(valkey: redis.Redis) -> None:
    writes, records = run([batch("engagements", favorite(), b'{"type":"engagement","action":"like"}', seen(user=2))])
    assert [record.topic for record in records].count("dead-letters") == 1
    users = UserStates(valkey)
    for entries, suffix in writes:
        users.write(entries, suffix)
    first, second = users.read(["1", "2"])
    assert first.positions["post_id"].tolist() == [10]
    assert second.seen.tolist() == [10]


def test_an_event_too_far_in_the_future_is_a_dead_letter_of_either_topic() -> None:
    ahead = now_ms() + Settings().future_tolerance_ms + HOUR_MS
    follow = Follow(user_id=1, target_id=2, at=ahead)
    writes, records = run([batch("engagements", favorite(at=ahead))], [batch("social-graph", follow)])
    assert writes == []
    assert [record.topic for record in records] == ["dead-letters", "dead-letters"]


def test_a_late_event_is_ordered_by_its_time_in_the_history(valkey: redis.Redis) -> None:
    writes, _ = run([batch("engagements", favorite(post=11, at=T0 + 9 * HOUR_MS), favorite(post=10))])
    users = UserStates(valkey)
    for entries, suffix in writes:
        users.write(entries, suffix)
    assert users.read(["1"])[0].positions["post_id"].tolist() == [10, 11]


def test_a_block_is_in_the_state_of_both_users(valkey: redis.Redis) -> None:
    writes, _ = run(
        [],
        [
            batch(
                "social-graph",
                Follow(user_id="did:plc:a", target_id=2, at=T0),
                Block(user_id="did:plc:a", target_id="2", at=T0 + 1),
            )
        ],
    )
    users = UserStates(valkey)
    for _ in range(2):  # a replay writes the same fields again
        for entries, suffix in writes:
            users.write(entries, suffix)
    blocker, blocked = users.read(["did:plc:a", "2"])
    assert blocker.blocks.tolist() == blocker.following.tolist() == [2]
    assert len(blocked.blocked_by) == 1
