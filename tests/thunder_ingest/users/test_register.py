"""A lost state is never taken for the empty state of a new user."""

import random
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.thunder_ingest.users.users import edge
from thunder_ingest.events import Block, Follow
from thunder_ingest.events.redis_keys import BUILD_KEY, MARK_KEY, user_key
from thunder_ingest.users import redis_form
from thunder_ingest.users.entries import UserUpdate, updates_of, view_entry
from thunder_ingest.users.redis_form import UserStates
from thunder_ingest.users.register import SHARDS, UserRegister, declare_whole


def block(users: UserStates, user: int, at: int = 1) -> None:
    users.append(updates_of(edge(Block, at, user=user, target=72)), f"0-{user}-{at}")


def is_whole(users: UserStates, user: int | str) -> bool:
    return users.read([str(user)])[0].is_whole


def test_a_new_user_is_whole_before_and_after_the_first_event(valkey: redis.Redis) -> None:
    declare_whole(valkey)
    users = UserStates(valkey)
    assert is_whole(users, 42)
    assert is_whole(users, "did:plc:ana")
    block(users, 42)
    assert is_whole(users, 42)
    assert is_whole(users, 72)  # has the other end of the block


def test_posts_that_were_served_make_a_new_user_neither_known_nor_lost(valkey: redis.Redis) -> None:
    declare_whole(valkey)
    users = UserStates(valkey)
    users.add_served("42", [1, 2], 1, "r")
    assert is_whole(users, 42)
    block(users, 42)
    assert is_whole(users, 42)


@pytest.mark.parametrize("event_after", [False, True])
@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_deleted_hash_is_a_loss_whatever_is_written_afterwards(
    valkey: redis.Redis, event_after: bool, is_restarted: bool
) -> None:
    declare_whole(valkey)
    users = UserStates(valkey)
    block(users, 42)
    valkey.delete(user_key("42"))
    writer = UserStates(valkey) if is_restarted else users
    writer.add_served("42", [1], 1, "r")
    if event_after:
        writer.append(updates_of(edge(Follow, 2, user=42, target=70)), "0-later")
    assert not is_whole(users, 42)
    assert not is_whole(UserStates(valkey), 42)
    assert is_whole(users, 72)


def test_an_emptied_redis_has_no_whole_state_whatever_is_written_afterwards(valkey: redis.Redis) -> None:
    declare_whole(valkey)
    users = UserStates(valkey)
    block(users, 42)
    valkey.flushall()
    for writer in (users, UserStates(valkey)):
        writer.append(updates_of(edge(Follow, 2, user=42, target=70)), "0-later")
        assert [state.is_whole for state in users.read(["42", "43"])] == [False, False]


def test_a_lost_set_of_the_register_is_a_loss_for_its_users(valkey: redis.Redis) -> None:
    declare_whole(valkey)
    users = UserStates(valkey)
    for user in range(1, 200):
        block(users, user)
    valkey.delete(*valkey.keys("users:known:*"))
    valkey.delete(*(user_key(str(user)) for user in range(100, 200)))
    for user in (100, 150, 300):
        users.append(updates_of(edge(Follow, 2, user=user, target=70)), "0-later")
    assert [state.is_whole for state in users.read(["1", "100", "150", "199", "300"])] == [True] + [False] * 4


def test_a_user_who_is_written_between_two_reads_is_whole(valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    declare_whole(valkey)
    users, writer = UserStates(valkey), UserStates(valkey)
    are_new = UserRegister.are_new

    def interrupted(register: UserRegister, asked: Any) -> list[bool]:
        block(writer, 42)
        return are_new(register, asked)

    monkeypatch.setattr(UserRegister, "are_new", interrupted)
    (state,) = users.read(["42"])
    assert (state.is_whole, state.blocks.tolist()) == (True, [72])


def test_a_crash_between_the_hash_and_the_register_is_repaired_by_the_replay(
    valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare_whole(valkey)
    with monkeypatch.context() as patched:
        patched.setattr(UserRegister, "register", lambda *_: None)
        block(UserStates(valkey), 42)
    users = UserStates(valkey)
    assert is_whole(users, 42)
    block(users, 42)
    assert is_whole(users, 42)
    valkey.delete(user_key("42"))
    assert not is_whole(users, 42)


def test_a_known_user_costs_the_flow_one_command_a_batch_and_the_worker_none(valkey: redis.Redis) -> None:
    declare_whole(valkey)
    users = UserStates(valkey)
    block(users, 42)
    valkey.config_resetstat()
    block(users, 42, at=2)
    users.read(["42", "72"])
    calls = {name: stat["calls"] for name, stat in valkey.info("commandstats").items()}
    assert calls["cmdstat_get"] == 2  # the mark: one with the write, one with the read
    assert calls["cmdstat_hset"] == calls["cmdstat_hgetall"] == 2
    assert "cmdstat_smismember" not in calls


def test_new_users_cost_the_flow_one_query_and_one_command_for_each_set(valkey: redis.Redis) -> None:
    declare_whole(valkey)
    states, users = UserStates(valkey), [str(user) for user in range(1, 10_001)]
    block(states, 20_000)
    valkey.config_resetstat()
    states.append([UserUpdate(user, "seen", view_entry(1, 2)) for user in users], "a")
    calls = {name: stat["calls"] for name, stat in valkey.info("commandstats").items()}
    assert calls["cmdstat_smismember"] == calls["cmdstat_sadd"] <= SHARDS
    register = UserRegister(valkey)
    assert sorted(register.new_users([*users, "0x", "72000"])) == ["0x", "72000"]
    assert register.are_new(["1", "72000"]) == [False, True]


def test_a_build_ends_only_once_and_only_with_all_sets(valkey: redis.Redis) -> None:
    register, users = UserRegister(valkey), UserStates(valkey)
    assert register.begin_build("b", {})
    assert not register.begin_build("c", {})
    block(users, 42)
    assert not is_whole(users, 42)
    register.note_build("first:e-0", "5")
    register.note_build("first:e-0", "9")
    assert register.build() == {b"id": b"b", b"first:e-0": b"5"}
    valkey.delete("users:known:3")
    assert not register.end_build("b")
    register.create_sets()
    assert register.end_build("b")
    assert not register.end_build("b")
    assert is_whole(users, 42)
    valkey.delete(user_key("42"))
    assert not is_whole(users, 42)
    assert not register.is_damaged()


def test_a_build_whose_redis_is_emptied_never_ends(valkey: redis.Redis) -> None:
    register = UserRegister(valkey)
    assert register.begin_build("b", {})
    valkey.flushall()
    register.note_build("first:e-0", "5")
    assert not register.end_build("b")
    assert (valkey.exists(MARK_KEY), valkey.exists(BUILD_KEY)) == (0, 0)
    assert register.is_damaged()


def test_users_are_spread_over_the_sets_whatever_their_ids_have_in_common(valkey: redis.Redis) -> None:
    declare_whole(valkey)
    UserRegister(valkey).register([str(n << 22) for n in range(1, 5_000)])
    sizes = [valkey.scard(f"users:known:{n}") - 1 for n in range(SHARDS)]
    assert max(sizes) < 5 * sum(sizes) / SHARDS


ACTIONS = st.lists(st.tuples(st.sampled_from("wwwwbdesx"), st.integers(1, 4)), max_size=30)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ACTIONS, st.integers(0, 1_000))
def test_a_state_that_is_whole_has_every_entry_that_was_written(
    valkey: redis.Redis, actions: list[tuple[str, int]], seed: int
) -> None:
    valkey.flushall()
    declare_whole(valkey)
    users, written, draw = UserStates(valkey), {n: set[int]() for n in range(1, 5)}, random.Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("MAX_FIELDS", 3), ("_COUNTED_FIELDS", 1), ("FOLD_BYTES", draw.choice([0, 8_192]))):
            patch.setattr(redis_form, name, value)
        for number, (action, user) in enumerate(actions):
            match action:
                case "w":  # an event
                    written[user].add(100 + number)
                    users.append(updates_of(edge(Follow, number, user=user, target=100 + number)), f"0-{number}")
                case "b":  # the flow starts again
                    users = UserStates(valkey)
                case "d":
                    valkey.delete(user_key(str(user)))
                case "e":  # eviction of anything
                    if keys := sorted(valkey.keys("users:*")):
                        valkey.delete(draw.choice(keys))
                case "s":
                    users.add_served(str(user), [number], number, f"r{number}")
                case "x":
                    valkey.flushall()
            for each, state in zip(written, users.read([str(each) for each in written]), strict=True):
                if state.is_whole:
                    assert set(state.following.tolist()) == written[each]


def test_a_mark_of_another_type_counts_as_missing(valkey: redis.Redis) -> None:
    users = UserStates(valkey)
    declare_whole(valkey)
    users.append([UserUpdate("1", "seen", view_entry(1, 2))], "a")
    valkey.delete(MARK_KEY)
    valkey.lpush(MARK_KEY, "x")
    users.append([UserUpdate("2", "seen", view_entry(1, 2))], "b")
    UserStates(valkey).append([UserUpdate("3", "seen", view_entry(1, 2))], "c")
    assert UserRegister(valkey).mark() is None
    assert UserRegister(valkey).is_damaged()
    assert [state.is_whole for state in users.read(["1", "2", "3", "77"])] == [False] * 4


def test_a_build_of_another_type_counts_as_missing(valkey: redis.Redis) -> None:
    register = UserRegister(valkey)
    valkey.lpush(BUILD_KEY, "x")
    assert register.build() == {}
    register.note_build("first:engagements-0", "0")
    register.withdraw()
    register.reopen("b")
    assert register.end_build("b")
    assert register.mark() == b"b"
