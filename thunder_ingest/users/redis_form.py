"""The state of users in Redis: a hash each, appended to, compacted now and then, read in one round trip.

A hash has a base per kind and a tail per appended batch and kind. Writing is proportional to what happened: a batch
adds one field to each user and kind it concerns. A tail is called after its batch, so that a batch written again,
after a crash, replaces itself or folds away. When fields have become many, the tails of a kind are joined into one;
only when that has grown long are its entries folded into the base.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias, cast

import hiredis
import redis
from redis.cluster import RedisCluster

from thunder_ingest.events.redis_keys import user_key
from thunder_ingest.users.compact_form import encode
from thunder_ingest.users.entries import KINDS, UserEntries, UserUpdate, by_user, view_entry
from thunder_ingest.users.state import TAIL, StateLimits, UserState, compact, decode, join

Client: TypeAlias = redis.Redis | RedisCluster
Fields: TypeAlias = dict[Any, Any]  # of bytes to bytes; redis-py types a mapping wider than it is
Command: TypeAlias = Sequence[str | bytes]

MAX_FIELDS: Final = 64
"""Fields of a user's hash; more are joined. A further field costs 100 bytes, and a microsecond of each read."""

FOLD_BYTES: Final = 8_192
"""Tails that are longer together are folded into the bases: a millisecond of work, for some 500 entries at once."""

_COUNTED_FIELDS: Final = 16  # a hash is asked for its size after so many fields were added to it, not after each
_TIDIED_TOGETHER: Final = 32  # users: three round trips for all of them
_COUNTERS: Final = 1 << 20
_CHUNK: Final = 1_000  # commands sent at once: Redis works on some while the next are packed


class UserStates:
    """Reads and writes `user:{id}`.

    Args:
        client: of a Redis or a Redis Cluster; it must return bytes.
        limits: how much of a user is kept, and shown.

    """

    def __init__(self, client: Client, limits: StateLimits = StateLimits()) -> None:  # noqa: B008  # immutable
        if client.get_encoder().decode_responses:
            raise ValueError("the state of users is binary: the client must not decode responses")
        self._client, self._limits = client, limits
        self._added = bytearray(_COUNTERS)  # fields, by hash of the user: users who share a counter are asked earlier

    def append(self, updates: Iterable[UserUpdate], suffix: str) -> None:
        """Write entries, in any order; like `write`."""
        self.write(by_user(updates), suffix)

    def write(self, entries: UserEntries, suffix: str) -> None:
        """Write a batch: a tail for each user and kind, called after the batch.

        Args:
            entries: what to append, by user and kind.
            suffix: names the batch, the same when it is written again.

        Raises:
            redis.RedisError: where Redis does not take it; it may then be written in part, and should be again.
            ValueError: where what is stored cannot be read.

        """
        writes = hset_commands(entries, suffix)
        grown = self._grown(entries)
        sizes = self._execute(writes + [("HLEN", user_key(user)) for user in grown])[len(writes) :]
        large = [user for user, size in zip(grown, sizes, strict=True) if size > MAX_FIELDS - _COUNTED_FIELDS]
        together = 1 if isinstance(self._client, RedisCluster) else _TIDIED_TOGETHER
        for first in range(0, len(large), together):
            self._tidy(large[first : first + together])

    def _grown(self, entries: UserEntries) -> list[str]:
        """The users whose hashes have got many fields since they were last asked for their size."""
        grown = []
        for user, fields in entries.items():
            slot = hash(user) % _COUNTERS
            added = self._added[slot] + len(fields)
            if added >= _COUNTED_FIELDS:
                grown.append(user)
                added = 0
            self._added[slot] = added
        return grown

    def add_served(self, user: str, post_ids: Sequence[int], at_ms: int, suffix: str) -> None:
        """Remember posts as served at a time; again with the same suffix it changes nothing. Raises like `append`."""
        self.append([UserUpdate(user, "served", view_entry(at_ms, post_id)) for post_id in post_ids], suffix)

    def read(self, users: Sequence[str]) -> list[UserState]:
        """The state of each user, an empty one where nothing is known; one round trip.

        Raises:
            redis.RedisError: where Redis does not answer.
            ValueError: where what is stored cannot be read; the text names the user.

        """
        return [self._decoded(user, fields) for user, fields in zip(users, self._stored(users), strict=True)]

    def _stored(self, users: Sequence[str]) -> list[Fields]:
        with self._client.pipeline(transaction=False) as pipe:
            for user in users:
                pipe.hgetall(user_key(user))
            stored: list[Fields] = pipe.execute()
        return stored

    def _execute(self, commands: Sequence[Command]) -> list[Any]:
        """The replies to commands sent together; on a cluster each goes to the node of its key."""
        if isinstance(self._client, RedisCluster):
            with self._client.pipeline(transaction=False) as pipe:
                for command in commands:
                    pipe.execute_command(*command)
                replies: list[Any] = pipe.execute()
                return replies
        return _pipelined(self._client, commands) if commands else []

    def _decoded(self, user: str, fields: Fields) -> UserState:
        try:
            return decode(fields, self._limits)
        except ValueError as error:
            raise ValueError(f"{user_key(user)} in Redis cannot be read: {error}") from error

    def _tidy(self, users: Sequence[str]) -> None:
        """Join users' tails; given up for those who are written to meanwhile: a later batch tries again."""
        with self._client.pipeline(transaction=True) as pipe:
            try:
                pipe.watch(*map(user_key, users))
                tidied = [_tidied(fields, self._limits) for fields in self._stored(users)]
                pipe.multi()
                for user, (written, tails) in zip(users, tidied, strict=True):
                    if tails:
                        pipe.hset(user_key(user), mapping=written)
                        pipe.hdel(user_key(user), *tails)
                pipe.execute()
            except redis.WatchError:
                for user in users if len(users) > 1 else ():
                    self._tidy([user])


def hset_commands(entries: UserEntries, suffix: str) -> list[Command]:
    """The command for each user that writes their tails."""
    names = {kind: kind.encode() + TAIL + suffix.encode() for kind in KINDS}
    commands: list[Command] = []
    for user, kinds in entries.items():
        command: list[str | bytes] = ["HSET", user_key(user)]
        for kind, each in kinds.items():
            command += names[kind], encode(kind, each)
        commands.append(command)
    return commands


# typed by hiredis as if commands were of one word
_pack_words: Final = cast(Callable[[tuple[str | bytes, ...]], bytes], hiredis.pack_command)


def _pipelined(client: redis.Redis, commands: Sequence[Command]) -> list[Any]:
    """Send commands on one connection and read the replies: a fifth of what a pipeline of redis-py costs."""
    connection = client.connection_pool.get_connection()
    try:
        for start in range(0, len(commands), _CHUNK):
            packed = b"".join([_pack_words(tuple(command)) for command in commands[start : start + _CHUNK]])
            connection.send_packed_command([packed], check_health=False)
        read = connection.read_response
        return [read() for _ in commands]
    except BaseException:
        connection.disconnect()  # replies may still be under way
        raise
    finally:
        client.connection_pool.release(connection)


def _tidied(fields: Fields, limits: StateLimits) -> tuple[Fields, list[bytes]]:
    """The tails of each kind joined into one, or folded into the bases; with the names of those they replace."""
    tail_bytes = sum(len(value) for name, value in fields.items() if TAIL in name)
    return compact(fields, limits) if tail_bytes > FOLD_BYTES else join(fields)
