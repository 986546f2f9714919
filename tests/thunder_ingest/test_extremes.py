"""Valid inputs of the kinds that break other systems."""

import numpy as np
import redis

from infra.ports.clock import HOUR_MS
from tests.feed_worker.builders import NOW_MS, hydrated, post, query, store_of
from thunder_ingest.counts.columns import DWELL_TIME
from thunder_ingest.counts.table import CountTable, changes_of
from thunder_ingest.counts.voices import AMOUNT, COLUMN, KEY, POST, ROW, STAMP, keys_of
from thunder_ingest.events import (
    ACTION_INDEX,
    Engagement,
    Follow,
    PostCounts,
    PostCreated,
    Unfollow,
    decode,
    encode,
    pack,
    unpack_counts,
    unpack_post,
)
from thunder_ingest.events.muting import phrases_of
from thunder_ingest.posts.table import PostTable
from thunder_ingest.users.entries import updates_of
from thunder_ingest.users.redis_form import UserStates


def totals(table: CountTable) -> dict[int, list[int]]:
    return {record.post_id: list(record.totals) for record in table.drain(NOW_MS).records}


def test_a_dwell_total_above_2_to_the_31_is_exact() -> None:
    dwell = 2**31 - 1
    stays = (
        Engagement(user_id=user, post_id=1, author_id=2, at=NOW_MS, action="dwell_time", dwell_ms=dwell)
        for user in (1, 2, 3)
    )
    table = CountTable(HOUR_MS)
    table.add(changes_of(stays), NOW_MS)
    assert totals(table)[1][DWELL_TIME] == 3 * dwell
    record = PostCounts(post_id=1, at=NOW_MS, totals=[0] * DWELL_TIME + [3 * dwell])
    assert unpack_counts(pack(record)).totals[DWELL_TIME] == 3 * dwell


def test_a_million_likes_of_one_post_are_counted_within_the_stated_error() -> None:
    likes, favorite = 1_000_000, ACTION_INDEX["favorite"]
    changes = np.zeros((likes, ROW), np.int64)
    changes[:, POST], changes[:, COLUMN], changes[:, AMOUNT] = 1, favorite, 1
    changes[:, STAMP] = 2 * (NOW_MS - np.arange(likes) % 60_000)
    changes[:, KEY] = keys_of(changes[:, POST], changes[:, COLUMN], np.arange(1, likes + 1))
    table = CountTable(HOUR_MS)
    table.add(changes, NOW_MS)
    assert abs(totals(table)[1][favorite] / likes - 1) < 0.15  # five standard errors
    assert table.voices <= 4_096


def test_a_user_who_follows_and_unfollows_thousands_of_times_a_minute_ends_with_the_last_word(
    valkey: redis.Redis,
) -> None:
    users, kinds = UserStates(valkey), (Follow, Unfollow)
    for part in range(10):
        churn = range(500 * part, 500 * (part + 1))
        events = [kinds[n % 2](user_id=1, target_id=2 + n // 2 % 50, at=NOW_MS + 10 * n) for n in churn]
        events.append(Follow(user_id=1, target_id=99, at=NOW_MS + 10 * churn[-1] + 5))
        users.append([update for event in events for update in updates_of(event)], f"s0-{part}")
    (state,) = users.read(["1"])
    assert state.following.tolist() == [99]
    assert valkey.hlen("user:{1}") < 64


def test_a_text_with_5000_hashtags_is_accepted_stored_and_searched() -> None:
    text = " ".join(f"#t{number}" for number in range(5_000))[:25_000]
    event = decode("posts", encode(PostCreated(post_id=1, author_id=2, at=NOW_MS, text=text)))
    ((_, value, _),) = PostTable(HOUR_MS).changes([event], NOW_MS).records
    stored = unpack_post(value or b"")
    store = store_of(stored)
    for word, is_there in (("t3000", True), ("nowhere", False)):
        phrases = phrases_of((word,), ignore_accents=True)
        assert store.contain_any(np.ones(1, np.int64), phrases).tolist() == [is_there]


def test_a_text_with_a_nul_is_kept_as_it_is() -> None:
    event = decode("posts", encode(PostCreated(post_id=1, author_id=2, at=NOW_MS, text="a\0b \ud7ff")))
    ((_, value, _),) = PostTable(HOUR_MS).changes([event], NOW_MS).records
    assert unpack_post(value or b"").text == "a\0b \ud7ff"


def test_replies_and_quotes_in_a_circle_end() -> None:
    store = store_of(
        post(1, 51, "reply", in_reply_to_post_id=3, conversation_id=2),
        post(2, 52, "reply", in_reply_to_post_id=1, conversation_id=1),
        post(3, 53, "quote", source_post_id=2, in_reply_to_post_id=3),
        post(4, 54, "quote", source_post_id=4),
    )
    candidates = hydrated(store, query(), 1, 2, 3, 4)
    assert candidates.posts.post_id.tolist() == [1, 2, 3, 4]
