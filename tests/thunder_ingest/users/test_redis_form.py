from collections.abc import Callable
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.ports.broken_keys import broken_keys
from infra.ports.errors import StateUnreadable
from infra.ports.process_metrics import DROPPED_ENTRIES
from tests.thunder_ingest.users.users import edge, favorite, impression, plain
from thunder_ingest.events import Block, EngagementEvent, Follow, GraphEvent, Unfollow
from thunder_ingest.users import redis_form
from thunder_ingest.users.entries import KINDS, updates_of
from thunder_ingest.users.redis_form import MAX_FIELDS, UserStates
from thunder_ingest.users.register import declare_whole
from thunder_ingest.users.state import StateLimits, UserState, join

T0 = 1_700_000_000_000


def write(users: UserStates, suffix: str, *events: EngagementEvent | GraphEvent) -> None:
    users.append([update for event in events for update in updates_of(event)], suffix)


def test_written_entries_are_read_back_for_many_users_at_once(valkey: redis.Redis) -> None:
    declare_whole(valkey)
    users = UserStates(valkey)
    write(users, "0-1", edge(Block, 1, user="did:a", target=2), edge(Follow, 1, user=2, target=3), impression(1))
    blocker, blocked, viewer, unknown = users.read(["did:a", "2", "1", "99"])
    assert blocker.blocks.tolist() == [2]
    assert (len(blocked.blocked_by), blocked.following.tolist()) == (1, [3])
    assert viewer.seen.tolist() == [10]
    assert plain(unknown) == plain(UserState.empty())
    assert users.read([]) == []


def test_nothing_to_write_is_no_error(valkey: redis.Redis) -> None:
    users = UserStates(valkey)
    users.append([], "0-1")
    users.add_served("1", [], T0, "r")
    assert valkey.dbsize() == 0


def test_a_batch_adds_a_field_per_user_and_kind(valkey: redis.Redis) -> None:
    users = UserStates(valkey)
    write(users, "0-1", *(favorite(n, post_id=n + 1) for n in range(50)))
    assert sorted(valkey.hkeys("user:{1}")) == [b"history+0-1"]


def test_a_batch_that_is_written_again_replaces_itself(valkey: redis.Redis) -> None:
    users = UserStates(valkey)
    for _ in range(2):
        write(users, "0-1", favorite(1), edge(Follow, 1))
        users.add_served("1", [5, 6], T0, "request")
    assert valkey.hlen("user:{1}") == 3
    assert users.read(["1"])[0].served_ids.tolist() == [5, 6]


@pytest.mark.parametrize(
    "request_id", ["joined", "+joined", "r:joined", "served", "e0-1-2", "+", "\n", "x" * 255, "a\0b", "*", "ünï"]
)
def test_a_request_with_any_id_leaves_the_other_state_of_its_viewer_alone(
    valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch, request_id: str
) -> None:
    monkeypatch.setattr(redis_form, "MAX_FIELDS", 4)
    monkeypatch.setattr(redis_form, "_COUNTED_FIELDS", 1)
    users = UserStates(valkey)
    write(users, "e0-1-2", favorite(1), edge(Follow, 1))
    for n in range(6):
        users.add_served("1", [n], T0 + n, f"r{n}")
    before = users.read(["1"])[0]
    users.add_served("1", [6], T0 + 6, request_id)
    state = users.read(["1"])[0]
    assert state.served_ids.tolist() == list(range(7))
    assert (state.positions.tolist(), state.following.tolist()) == (before.positions.tolist(), [2])


def test_a_hash_never_holds_many_fields_however_many_batches_come(valkey: redis.Redis) -> None:
    users = UserStates(valkey)
    for n in range(100):
        write(users, f"0-{n}", favorite(n * 1_000_000, post_id=n + 1))
        users.add_served("1", [n], T0 + n, f"r{n}")
        assert valkey.hlen("user:{1}") <= MAX_FIELDS
    state = users.read(["1"])[0]
    assert state.positions["post_id"].tolist() == list(range(1, 101))
    assert state.served_ids.tolist() == list(range(100))


def test_short_tails_are_joined_and_long_ones_folded_into_the_base(
    valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = UserStates(valkey)
    monkeypatch.setattr(redis_form, "MAX_FIELDS", 2)
    monkeypatch.setattr(redis_form, "_COUNTED_FIELDS", 1)
    monkeypatch.setattr(redis_form, "FOLD_BYTES", 60)
    for n in range(3):
        write(users, f"0-{n}", edge(Follow, n, target=n + 2))
        assert valkey.hkeys("user:{1}") == ([b"following+0-0"] if n == 0 else [b"following+joined"])
    for n in range(3, 9):
        write(users, f"0-{n}", edge(Follow, n, target=(n + 2) ** 15))
    assert b"following" in valkey.hkeys("user:{1}")
    assert len(users.read(["1"])[0].following) == 9


def test_a_concurrent_write_during_a_compaction_is_not_lost(
    valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    users, other = UserStates(valkey), UserStates(redis.Redis(connection_pool=valkey.connection_pool))

    def interrupted(fields: Any) -> Any:
        write(other, "1-0", edge(Block, 1, target=77))
        return join(fields)

    monkeypatch.setattr(redis_form, "_COUNTED_FIELDS", 1)
    for n in range(MAX_FIELDS - 1):
        write(users, f"0-{n}", edge(Follow, n, target=n + 2))
    monkeypatch.setattr(redis_form, "join", interrupted)
    monkeypatch.setattr(other, "_tidy", lambda users: None)
    write(users, "0-one", edge(Follow, 9_999, target=9_999))
    assert valkey.hlen("user:{1}") == MAX_FIELDS + 1  # given up, and nothing is gone
    monkeypatch.setattr(redis_form, "join", join)
    write(users, "0-two", edge(Follow, 10_000, target=10_000))
    assert sorted(valkey.hkeys("user:{1}")) == [b"blocks+joined", b"following+joined"]
    state = users.read(["1"])[0]
    assert state.blocks.tolist() == [77]
    assert len(state.following) == MAX_FIELDS + 1


def test_a_state_that_cannot_be_read_names_the_user(valkey: redis.Redis) -> None:
    valkey.hset("user:{1}", "seen", b"\x09")
    with pytest.raises(StateUnreadable, match=r"user:\{1\} in Redis cannot be read: .* version 9"):
        UserStates(valkey).read(["2", "1"])


def test_a_key_of_another_type_stops_no_other_user(valkey: redis.Redis, caplog: pytest.LogCaptureFixture) -> None:
    users, skipped = UserStates(valkey), broken_keys.count
    valkey.set("user:{700}", "x")
    for batch in range(3):
        write(users, f"0-{batch}", edge(Follow, batch, user=700), edge(Block, batch, user=8, target=9))
    users.add_served("700", [1], T0, "r")
    blocker, blocked = users.read(["8", "9"])
    assert (blocker.blocks.tolist(), blocked.blocked_by.tolist()) == ([9], [8])
    assert broken_keys.count == skipped + 4
    assert [record.message.partition(" in ")[0] for record in caplog.records] == ["user:{700}"]
    with pytest.raises(StateUnreadable, match=r"user:\{700\} in Redis cannot be read: .*WRONGTYPE"):
        users.read(["8", "700"])


@pytest.mark.parametrize("value", [b"", b"\x09", b"\x00", b"\xff" * 40, b"\x01" * 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_hash_that_cannot_be_decoded_stops_no_other_user(
    valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch, kind: str, value: bytes
) -> None:
    monkeypatch.setattr(redis_form, "MAX_FIELDS", 2)
    monkeypatch.setattr(redis_form, "_COUNTED_FIELDS", 1)
    for fold_bytes in (0, 8_192):
        monkeypatch.setattr(redis_form, "FOLD_BYTES", fold_bytes)
        valkey.flushall()
        users = UserStates(valkey)
        valkey.hset("user:{1}", kind, value)
        valkey.hset("user:{1}", f"{kind}+broken", value)
        for n in range(4):
            write(users, f"0-{n}", favorite(n, post_id=n + 1), edge(Block, n, user=3, target=n + 2))
        assert len(users.read(["3"])[0].blocks) == 4
        assert b"blocks+joined" in valkey.hkeys("user:{3}") or b"blocks" in valkey.hkeys("user:{3}")


def test_a_client_that_decodes_is_refused(valkey_url: str) -> None:
    with (
        redis.Redis.from_url(valkey_url, decode_responses=True) as client,
        pytest.raises(ValueError, match="must not decode"),
    ):
        UserStates(client)


def test_a_read_of_many_users_is_one_round_trip(valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    users = UserStates(valkey)
    write(users, "0-1", favorite(1))
    sent: list[int] = []
    send: Callable[..., Any] = redis.connection.AbstractConnection.send_packed_command

    def counted(self: Any, command: Any, check_health: bool = True) -> Any:
        sent.append(1)
        return send(self, command, check_health)

    monkeypatch.setattr(redis.connection.AbstractConnection, "send_packed_command", counted)
    users.read([str(n) for n in range(50)])
    assert len(sent) == 1


batches = st.lists(
    st.lists(
        st.builds(favorite, st.integers(0, 9), st.integers(1, 3), undo=st.booleans())
        | st.builds(edge, st.sampled_from([Follow, Unfollow, Block]), st.integers(0, 9), target=st.integers(2, 3)),
        max_size=3,
    ),
    max_size=10,
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches, st.randoms(use_true_random=False), st.sampled_from([0, 200, 16_384]))
def test_a_writer_that_dies_and_replays_leads_to_the_same_state(
    valkey: redis.Redis, batches: list[list[EngagementEvent | GraphEvent]], random: Any, fold_bytes: int
) -> None:
    valkey.flushall()
    users = UserStates(valkey)
    everything = [event for batch in batches for event in batch]
    write(users, "all", *everything)
    expected = plain(users.read(["1"])[0])
    valkey.flushall()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("MAX_FIELDS", 3), ("_COUNTED_FIELDS", 1), ("FOLD_BYTES", fold_bytes)):
            patch.setattr(redis_form, name, value)
        offset = 0
        while offset < len(everything):
            size = random.randint(1, 4)  # a replay cuts batches as it likes
            write(users, f"0-{offset}", *everything[offset : offset + size])
            offset = max(0, offset - 2) if random.random() < 0.2 else offset + size
    assert plain(users.read(["1"])[0]) == expected


def test_a_hash_with_a_broken_base_does_not_grow_by_a_field_a_batch(valkey: redis.Redis) -> None:
    declare_whole(valkey)
    users, before = UserStates(valkey), broken_keys.count
    write(users, "0-0", edge(Follow, 0))
    valkey.hset("user:{1}", "blocks", b"\x09")
    for number in range(2_000):
        write(users, f"0-{number}", *(edge(type_, number, target=number + 2) for type_ in (Follow, Block)))
    assert valkey.hlen("user:{1}") <= MAX_FIELDS
    assert broken_keys.count > before
    with pytest.raises(StateUnreadable, match=r"user:{1}"):
        users.read(["1"])
    valkey.hdel("user:{1}", "blocks")
    (state,) = users.read(["1"])
    assert (len(state.following), len(state.blocks), state.is_whole) == (2_000, 2_000, True)


def test_entries_beyond_a_bound_are_counted_and_named(valkey: redis.Redis, caplog: pytest.LogCaptureFixture) -> None:
    users, before = UserStates(valkey, StateLimits(safety=100)), DROPPED_ENTRIES.values().get("blocks", 0)
    write(users, "0-0", *(edge(Block, number, target=number + 2) for number in range(1_000)))
    for number in range(MAX_FIELDS):
        write(users, f"0-{number + 1}", edge(Follow, number))
    assert DROPPED_ENTRIES.values()["blocks"] == before + 900
    assert "user:{1}: the 900 oldest of blocks are beyond the bound" in caplog.text
