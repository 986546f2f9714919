"""The Redis form of users: one hash per user, append-only between compactions, read in one round trip.

A hash has a base per kind, and a tail per kind and appended batch. The cost of a write depends on the batch alone: it
adds one field per user and kind. The name of a tail is the name of its batch. A batch that is written again after a
crash therefore replaces itself, or adds entries that are already in the base. Many tails of a kind are joined into
one. Only a long joined tail is folded into the base.
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
"""Fields of a user's hash before tails are joined. A field costs 100 bytes, and a microsecond of each read."""

FOLD_BYTES: Final = 8_192
"""Bytes of all tails before they are folded into the bases: a millisecond of work, for about 500 entries at once."""

_COUNTED_FIELDS: Final = 16  # fields added to a hash between two queries of its size
_TIDIED_TOGETHER: Final = 32  # users: three round trips for all
_COUNTERS: Final = 1 << 20
_CHUNK: Final = 1_000  # commands per send: Redis executes some while the next are packed


class UserStates:
    """Reads and writes `user:{id}`.

    Args:
        client: of a Redis or a Redis Cluster; it must return bytes.
        limits: the number of entries that are kept and shown.

    """

    def __init__(self, client: Client, limits: StateLimits = StateLimits()) -> None:  # noqa: B008  # immutable
        if client.get_encoder().decode_responses:
            raise ValueError("the state of users is binary: the client must not decode responses")
        self._client, self._limits = client, limits
        self._added = bytearray(_COUNTERS)  # fields, by hash of the user; a shared counter only queries sizes earlier

    def append(self, updates: Iterable[UserUpdate], suffix: str) -> None:
        """Write entries, in any order; like `write`."""
        self.write(by_user(updates), suffix)

    def write(self, entries: UserEntries, suffix: str) -> None:
        """Write a batch: a tail for each user and kind, with the name of the batch.

        Args:
            entries: to append, by user and kind.
            suffix: name of the batch, the same when it is written again.

        Raises:
            redis.RedisError: for a failed write, which may be partial; write the batch again.
            ValueError: for a stored value that cannot be read.

        """
        writes = hset_commands(entries, suffix)
        grown = self._grown(entries)
        sizes = self._execute(writes + [("HLEN", user_key(user)) for user in grown])[len(writes) :]
        large = [user for user, size in zip(grown, sizes, strict=True) if size > MAX_FIELDS - _COUNTED_FIELDS]
        together = 1 if isinstance(self._client, RedisCluster) else _TIDIED_TOGETHER
        for first in range(0, len(large), together):
            self._tidy(large[first : first + together])

    def _grown(self, entries: UserEntries) -> list[str]:
        """The users whose hashes got many fields since the last query of their sizes."""
        grown = []
        for user, fields in entries.items():
            slot = hash(user) % _COUNTERS
            added = self._added[slot] + len(fields)
            if added >= _COUNTED_FIELDS:
                grown.append(user)
                added = 0
            self._added[slot] = added
        return grown

    def add_served(self, user: str, post_ids: Sequence[int], at_ms: int, request_id: str) -> None:
        """Store posts as served; idempotent for a request. Raises like `write`.

        Apps choose request ids: the prefix keeps them apart from the names of this module.
        """
        updates = [UserUpdate(user, "served", view_entry(at_ms, post_id)) for post_id in post_ids]
        self.append(updates, f"r:{request_id}")

    def read(self, users: Sequence[str]) -> list[UserState]:
        """The state of each user, empty for a user without a hash; one round trip.

        Raises:
            redis.RedisError: for a failed read.
            ValueError: for a stored value that cannot be read; the text names the user.

        """
        return [self._decoded(user, fields) for user, fields in zip(users, self._stored(users), strict=True)]

    def _stored(self, users: Sequence[str]) -> list[Fields]:
        with self._client.pipeline(transaction=False) as pipe:
            for user in users:
                pipe.hgetall(user_key(user))
            stored: list[Fields] = pipe.execute()
        return stored

    def _execute(self, commands: Sequence[Command]) -> list[Any]:
        """The replies to commands that are sent together; a cluster client sends each to the node of its key."""
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
        """Join or fold the tails of users; skip users with concurrent writes, since a later batch tries again."""
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
    """For each user the command that writes the tails."""
    names = {kind: kind.encode() + TAIL + suffix.encode() for kind in KINDS}
    commands: list[Command] = []
    for user, kinds in entries.items():
        command: list[str | bytes] = ["HSET", user_key(user)]
        for kind, each in kinds.items():
            command += names[kind], encode(kind, each)
        commands.append(command)
    return commands


# the types of hiredis allow only commands of one word
_pack_words: Final = cast(Callable[[tuple[str | bytes, ...]], bytes], hiredis.pack_command)


def _pipelined(client: redis.Redis, commands: Sequence[Command]) -> list[Any]:
    """Send commands on one connection and read the replies, at a fifth of the cost of a redis-py pipeline."""
    connection = client.connection_pool.get_connection()
    try:
        for start in range(0, len(commands), _CHUNK):
            packed = b"".join([_pack_words(tuple(command)) for command in commands[start : start + _CHUNK]])
            connection.send_packed_command([packed], check_health=False)
        read = connection.read_response
        return [read() for _ in commands]
    except BaseException:
        connection.disconnect()  # unread replies may follow
        raise
    finally:
        client.connection_pool.release(connection)


def _tidied(fields: Fields, limits: StateLimits) -> tuple[Fields, list[bytes]]:
    """The fields to write, with tails joined or folded into bases, and the names of the fields to delete."""
    tail_bytes = sum(len(value) for name, value in fields.items() if TAIL in name)
    return compact(fields, limits) if tail_bytes > FOLD_BYTES else join(fields)
