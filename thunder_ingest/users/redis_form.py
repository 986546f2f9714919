"""The Redis form of users: one hash per user, append-only between compactions, read in one round trip.

A hash has a base per kind, and a tail per kind and appended batch. The cost of a write depends on the batch alone: it
adds one field per user and kind. The name of a tail is the name of its batch. A batch that is written again after a
crash therefore replaces itself, or adds entries that are already in the base. Many tails of a kind are joined into
one. Only a long joined tail is folded into the base.

A hash that cannot be read or written concerns its user alone: it is skipped, counted and named in the log.
"""

import logging
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final, TypeAlias

import redis
from redis.cluster import RedisCluster

from infra.ports.broken_keys import broken_keys
from infra.ports.errors import StateUnreadable
from infra.ports.process_metrics import DROPPED_ENTRIES
from infra.ports.redis import Client, Command, checked, pipelined
from thunder_ingest.events.redis_keys import MARK_KEY, user_key
from thunder_ingest.users.compact_form import encode
from thunder_ingest.users.entries import KINDS, UserEntries, UserUpdate, by_user, view_entry
from thunder_ingest.users.register import WHOLE, UserRegister
from thunder_ingest.users.state import TAIL, StateLimits, UserState, compact, decode, join

log = logging.getLogger(__name__)

Fields: TypeAlias = dict[Any, Any]  # of bytes to bytes; redis-py types a mapping wider than it is

MAX_FIELDS: Final = 64
"""Fields of a user's hash before tails are joined. A field costs 100 bytes, and a microsecond of each read."""

FOLD_BYTES: Final = 8_192
"""Bytes of all tails before they are folded into the bases: a millisecond of work, for about 500 entries at once."""

_COUNTED_FIELDS: Final = 16  # fields added to a hash between two queries of its size
_TIDIED_TOGETHER: Final = 32  # users: three round trips for all
_COUNTERS: Final = 1 << 20


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
        self._register = UserRegister(client)
        self._added = bytearray(_COUNTERS)  # fields, by hash of the user; a shared counter only queries sizes earlier

    def append(self, updates: Iterable[UserUpdate], suffix: str) -> None:
        """Write entries, in any order; like `write`."""
        self.write(by_user(updates), suffix)

    def write(self, entries: UserEntries, suffix: str, then: Sequence[Command] = ()) -> list[Any]:
        """Write a batch of events: a tail for each user and kind, with the name of the batch; register new users.

        A user whose hash cannot be written is skipped; the register then shows that the user's state is missing.

        Args:
            entries: to append, by user and kind.
            suffix: name of the batch, the same when it is written again.
            then: further commands. A Redis without cluster executes them after the entries on the same connection, so
                no failover lies between.

        Returns:
            the replies to `then`.

        Raises:
            redis.RedisError: for a failed write, which may be partial; write the batch again.

        """
        new = self._register.new_users(entries) if entries else []
        if isinstance(self._client, RedisCluster):  # its pipelines keep no order between nodes
            self._append(entries, suffix, frozenset(new))
            self._register.register(new)
            return pipelined(self._client, then)
        replies = self._append(entries, suffix, frozenset(new), [*self._register.registrations(new), *then])
        self._register.remember(new)
        return replies[len(replies) - len(then) :]

    def add_served(self, user: str, post_ids: Sequence[int], at_ms: int, request_id: str) -> None:
        """Store posts as served; idempotent for a request. Raises like `write`. No event, so it registers no user.

        Apps choose request ids: the prefix keeps them apart from the names of this module.
        """
        updates = [UserUpdate(user, "served", view_entry(at_ms, post_id)) for post_id in post_ids]
        self._append(by_user(updates), f"r:{request_id}")

    def read(self, users: Sequence[str]) -> list[UserState]:
        """The state of each user; one round trip, and two more if a state may be missing.

        A state has `is_whole` False if some of its entries are known to be lost. A new user's state is empty and whole.

        Raises:
            redis.RedisError: for a failed read.
            StateUnreadable: for a stored value that cannot be read; the text names the user.

        """
        *stored, mark = self._stored(users, mark=True)
        states = [self._decoded(user, fields) for user, fields in zip(users, stored, strict=True)]
        unsure = [number for number, fields in enumerate(stored) if WHOLE not in fields]
        if not isinstance(mark, bytes):  # an error if the key has another type
            unsure = list(range(len(users)))
        elif unsure:
            unsure = self._incomplete(users, unsure, states)
        for number in unsure:
            states[number].is_whole = False
        return states

    def _incomplete(self, users: Sequence[str], unsure: Sequence[int], states: list[UserState]) -> list[int]:
        """Those of `unsure` whose entries are lost; replaces the state of a user whose first event has just come."""
        are_new = self._register.are_new([users[number] for number in unsure])
        left = [number for number, is_new in zip(unsure, are_new, strict=True) if not is_new]
        again = self._stored([users[number] for number in left])  # a hash is written before its user is registered
        for number, fields in zip(left, again, strict=True):
            states[number] = self._decoded(users[number], fields)
        return [number for number, fields in zip(left, again, strict=True) if WHOLE not in fields]

    def forget_registered(self) -> None:
        """Forget which users are registered: a new primary may lack the last writes."""
        self._register.forget()

    def _append(
        self, entries: UserEntries, suffix: str, new: Collection[str] = (), then: Sequence[Command] = ()
    ) -> list[Any]:
        """Write entries, then execute further commands; return the replies to these."""
        writes = hset_commands(entries, suffix, new)
        grown = self._grown(entries)
        replies = pipelined(self._client, [*writes, *[("HLEN", user_key(user)) for user in grown], *then])
        for user, reply in zip(entries, replies, strict=False):
            if isinstance(reply, Exception):
                broken_keys.skip(user_key(user), reply)
        sizes = [0 if isinstance(size, Exception) else size for size in replies[len(writes) : len(writes) + len(grown)]]
        large = [user for user, size in zip(grown, sizes, strict=True) if size > MAX_FIELDS - _COUNTED_FIELDS]
        together = 1 if isinstance(self._client, RedisCluster) else _TIDIED_TOGETHER
        for first in range(0, len(large), together):
            self._tidy(large[first : first + together])
        return replies[len(writes) + len(grown) :]

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

    def _stored(self, users: Sequence[str], *, mark: bool = False) -> list[Any]:
        """The fields of each user, or the error of the key; with `mark` also the mark of the register."""
        with self._client.pipeline(transaction=False) as pipe:
            for user in users:
                pipe.hgetall(user_key(user))
            if mark:
                pipe.get(MARK_KEY)
            return checked(pipe.execute(raise_on_error=False))

    def _decoded(self, user: str, fields: Fields | Exception) -> UserState:
        try:
            if isinstance(fields, Exception):
                raise fields
            return decode(fields, self._limits)
        except (ValueError, redis.ResponseError) as error:
            raise StateUnreadable(f"{user_key(user)} in Redis cannot be read: {error}") from error

    def _tidy(self, users: Sequence[str]) -> None:
        """Join or fold the tails of users; skip users with concurrent writes, since a later batch tries again."""
        with self._client.pipeline(transaction=True) as pipe:
            try:
                pipe.watch(*map(user_key, users))
                tidied = [self._fold(user, fields) for user, fields in zip(users, self._stored(users), strict=True)]
                pipe.multi()
                for user, (written, tails) in zip(users, tidied, strict=True):
                    if tails:
                        pipe.hset(user_key(user), mapping=written)
                        pipe.hdel(user_key(user), *tails)
                pipe.execute()
            except redis.WatchError:
                for user in users if len(users) > 1 else ():
                    self._tidy([user])

    def _fold(self, user: str, fields: Fields | Exception) -> tuple[Fields, list[bytes]]:
        """The fields to write and the names of those to delete; neither for a value of another type."""
        if isinstance(fields, Exception):
            broken_keys.skip(user_key(user), fields)
            return {}, []
        if sum(len(value) for name, value in fields.items() if TAIL in name) <= FOLD_BYTES:
            return join(fields)
        try:
            bases, tails, dropped = compact(fields, self._limits)
        except ValueError as error:
            broken_keys.skip(user_key(user), error)
            return join(fields)  # else the hash would grow by a field a batch
        for kind, number in dropped.items():
            DROPPED_ENTRIES.add(kind, number)
            log.warning(
                "%s: the %d oldest of %s are beyond the bound and no longer count", user_key(user), number, kind
            )
        return bases, tails


def hset_commands(entries: UserEntries, suffix: str, new: Collection[str] = ()) -> list[Command]:
    """For each user the command that writes the tails, and for `new` users the field WHOLE."""
    names = {kind: kind.encode() + TAIL + suffix.encode() for kind in KINDS}
    commands: list[Command] = []
    for user, kinds in entries.items():
        command: list[str | bytes | int] = ["HSET", user_key(user)]
        for kind, each in kinds.items():
            command += names[kind], encode(kind, each)
        if user in new:
            command += WHOLE, b"1"
        commands.append(command)
    return commands
