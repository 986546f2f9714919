"""The register of users in Redis: the evidence, outside of a user's hash, that the user has state.

A hash may be lost: deleted, evicted, or gone with the whole Redis. The state of such a user is missing, not empty, and
must not be served, since it had blocks and mutes. Four records tell the cases apart:

- `user:{42}`, field WHOLE: the hash has every entry since the user's first event.
- `users:known:N`, a set: the ids of users with state, one of SHARDS sets. The member 0 is written with the set's
  creation, so a set that was lost does not pass for one without users.
- `users:{register}`, a string, the mark: the flow, or a rebuild, has read the log up to its end once. Its value is the
  id of this build. Without it no user's state is whole.
- `users:{register}:build`, a hash: a build that has not ended; its fields belong to the builder.

The state of a user is whole if the mark exists, and the hash has WHOLE or the user is new: absent from a set that is
whole. The flow writes WHOLE with the first entries of a new user, before it adds the user to the set. A crash between
the two is repaired by the replay.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, cast
from zlib import crc32

import redis

from infra.ports.broken_keys import broken_keys
from infra.ports.error_table import Reaction, redis_reaction
from infra.ports.redis import Client, Command, pipelined
from thunder_ingest.events.redis_keys import BUILD_KEY, MARK_KEY, known_users_key, user_key

WHOLE: Final = b"whole"
REBUILT: Final = b"rebuilt"
"""A field with the id of the rebuild that has begun to write the user: a hash that is lost meanwhile lacks it."""

SHARDS: Final = 1_024
"""Sets of registered users. Redis stores an integer id in 8 bytes if a set has up to 512 of them, else in about 70."""

_SET_IS_WHOLE: Final = "0"  # no id
_SETS: Final = [known_users_key(number) for number in range(SHARDS)]
_REMEMBERED: Final = 1 << 19  # registered users that need no query; about 60 MB

_BEGIN: Final = """
if redis.call('EXISTS', KEYS[1], KEYS[2]) > 0 then return 0 end
redis.call('HSET', KEYS[2], unpack(ARGV))
return 1
"""
_NOTE: Final = """
if redis.call('TYPE', KEYS[1])['ok'] ~= 'hash' then return 0 end
return redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])
"""
_END: Final = """
if redis.call('HGET', KEYS[2], 'id') ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
redis.call('SET', KEYS[1], ARGV[1])
return 1
"""
_WITHDRAW: Final = """
if redis.pcall('HEXISTS', KEYS[2], 'bounds') == 1 then redis.call('DEL', KEYS[2]) end
return redis.call('DEL', KEYS[1])
"""
_SETTLE: Final = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[3], ARGV[2])
return redis.call('HDEL', KEYS[1], ARGV[1])
"""


class UserRegister:
    """Reads and writes the register. For one thread, as its cache is not locked.

    Args:
        client: of Redis.

    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._mark: bytes | None = None
        self._registered = set[str]()

    def mark(self) -> bytes | None:
        """The id of the last build; None if the state was never built, or Redis was emptied."""
        return _bytes(pipelined(self._client, [("GET", MARK_KEY)])[0])

    def new_users(self, users: Iterable[str]) -> list[str]:
        """The users without state: their hashes get WHOLE with the first write, and `register` adds them afterwards.

        Raises:
            redis.RedisError: Redis does not answer.

        """
        members = _by_set([user for user in users if user not in self._registered])
        queries = [("SMISMEMBER", key, _SET_IS_WHOLE, *some) for key, some in members.items()]
        reply, *replies = pipelined(self._client, [("GET", MARK_KEY), *queries])
        if (mark := _bytes(reply)) != self._mark:
            self._mark, was_filled, self._registered = mark, bool(self._registered), set()
            if was_filled:  # Redis was emptied or rebuilt: ask for every user again
                return self.new_users(users)
        new, known = list[str](), list[str]()
        for some, reply in zip(members.values(), replies, strict=True):
            if isinstance(reply, Exception) or not reply[0]:  # the set is lost
                continue
            for user, is_known in zip(some, reply[1:], strict=True):
                (known if is_known else new).append(user)
        self.remember(known)
        return new

    def register(self, users: Sequence[str]) -> None:
        """Add users whose hashes were written; raises like `new_users`."""
        pipelined(self._client, self.registrations(users))
        self.remember(users)

    def registrations(self, users: Iterable[str]) -> list[Command]:
        """The commands of `register`; after them call `remember`."""
        return [("SADD", key, *some) for key, some in _by_set(users).items()]

    def are_new(self, users: Sequence[str]) -> list[bool]:
        """True for each user who is known to have no state; raises like `new_users`."""
        return [reply == [1, 0] for reply in pipelined(self._client, list(map(_membership, users)))]

    def users_not_whole(self) -> list[str]:
        """The registered users whose hashes are not whole; reads the whole register, and raises like `new_users`."""
        found = list[str]()
        for key in _SETS:
            (members,) = pipelined(self._client, [("SMEMBERS", key)])
            users = [each.decode() for each in ([] if isinstance(members, Exception) else members)]
            users = [user for user in users if user != _SET_IS_WHOLE]
            replies = pipelined(self._client, [("HEXISTS", user_key(user), WHOLE) for user in users])
            found += [user for user, reply in zip(users, replies, strict=True) if reply == 0]
        return found

    def is_damaged(self) -> bool:
        """True if the mark or one of the sets is missing; raises like `new_users`."""
        replies = pipelined(self._client, [("SISMEMBER", each, _SET_IS_WHOLE) for each in _SETS])
        return self.mark() is None or not all(reply == 1 for reply in replies)

    def forget(self) -> None:
        """Query every user again: a new primary may lack the last registrations."""
        self._registered.clear()

    def remember(self, users: Iterable[str]) -> None:
        """Note users that are registered: they need no query."""
        if len(self._registered) > _REMEMBERED:
            self._registered.clear()
        self._registered.update(users)

    # --- builds ---------------------------------------------------------------------------------------------------

    def begin_build(self, build_id: str, fields: Mapping[str, str]) -> bool:
        """Begin the first build of the state, unless it exists or is being built; raises like `new_users`."""
        if self._client.exists(MARK_KEY) or self._client.exists(BUILD_KEY):
            return False
        self.create_sets()
        pairs = [each for pair in ({"id": build_id} | dict(fields)).items() for each in pair]
        return bool(self._client.eval(_BEGIN, 2, MARK_KEY, BUILD_KEY, *pairs))

    def build(self) -> dict[bytes, bytes]:
        """The fields of the open build, among them `id`; empty if none is open, or its key has another type."""
        try:
            return cast(dict[bytes, bytes], self._client.hgetall(BUILD_KEY))
        except redis.ResponseError as error:
            if redis_reaction(error) is not Reaction.SKIP:
                raise
            broken_keys.skip(BUILD_KEY, error)
            return {}

    def note_build(self, field: str, value: str) -> None:
        """Set a field of the open build, unless it is set; raises like `new_users`."""
        self._client.eval(_NOTE, 1, BUILD_KEY, field, value)

    def end_build(self, build_id: str) -> bool:
        """End the build and set the mark; False if the build is not open any more, or a set was lost meanwhile."""
        replies = pipelined(self._client, [("SISMEMBER", each, _SET_IS_WHOLE) for each in _SETS])
        if not all(reply == 1 for reply in replies):
            return False
        return bool(self._client.eval(_END, 2, MARK_KEY, BUILD_KEY, build_id))

    def withdraw(self) -> None:
        """Remove the mark, and an open first build: no state is whole until a rebuild, which finds losses by itself."""
        self._client.eval(_WITHDRAW, 2, MARK_KEY, BUILD_KEY)

    def reopen(self, build_id: str) -> None:
        """Begin a build after a loss: remove the mark, so that no state is whole until the end of the build."""
        self._client.delete(MARK_KEY, BUILD_KEY)
        self.create_sets()
        self._client.hset(BUILD_KEY, "id", build_id)

    def create_sets(self) -> None:
        """Create the sets of registered users; those that exist stay."""
        pipelined(self._client, [("SADD", each, _SET_IS_WHOLE) for each in _SETS])

    def start_rebuilt(self, users: Sequence[str], build_id: str) -> None:
        """Note in the hashes of users that a rebuild has begun to write them."""
        pipelined(self._client, [("HSET", user_key(user), REBUILT, build_id) for user in users])

    def settle_rebuilt(self, users: Sequence[str], build_id: str) -> int:
        """Declare the rebuilt hashes whole, and register their users; returns the number of hashes."""
        scripts: list[Command] = [("EVAL", _SETTLE, 1, user_key(user), REBUILT, build_id, WHOLE) for user in users]
        settled = sum(1 for reply in pipelined(self._client, scripts) if reply == 1)
        self.register(users)
        return settled


def declare_whole(client: Client) -> None:
    """Declare the state in Redis whole, as a build of an empty log does: for a Redis that is filled without flows."""
    register = UserRegister(client)
    register.create_sets()
    client.set(MARK_KEY, "declared")


def _bytes(reply: object) -> bytes | None:
    """A string; None for a missing key, or the error of a key of another type."""
    return reply if isinstance(reply, bytes) else None


def _membership(user: str) -> Command:
    return "SMISMEMBER", _set_of(user), _SET_IS_WHOLE, user


def _by_set(users: Iterable[str]) -> dict[str, list[str]]:
    """The users of each set: one command for all of them costs a tenth of one each."""
    members = defaultdict[str, list[str]](list)
    for user in users:
        members[_set_of(user)].append(user)
    return members


def _set_of(user: str) -> str:
    return _SETS[crc32(user.encode()) % SHARDS]
