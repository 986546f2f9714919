"""The state of users in Redis: a hash each, appended to, compacted now and then, read in one round trip.

A hash has a base per kind and a tail per appended batch and kind. Writing is proportional to what happened: a batch
adds one field to each user and kind it concerns, and a hash is rewritten only when its fields have become many. A tail
is called after its batch, so that a batch written again, after a crash, replaces itself or folds away.
"""

from collections.abc import Sequence
from typing import Any, Final, TypeAlias, cast

import redis
from redis.cluster import RedisCluster

from thunder_ingest.user_entries import UserUpdate, encode, view_entry
from thunder_ingest.user_state import TAIL, UserState, compact, decode

Client: TypeAlias = redis.Redis | RedisCluster
Fields: TypeAlias = dict[Any, Any]  # of bytes to bytes; redis-py types a mapping wider than it is

MAX_FIELDS: Final = 128
"""Fields of a user's hash; a batch that makes them more compacts it.

A compaction costs about a millisecond and three round trips, a further field some microseconds of each read.
"""


def user_key(user: str) -> str:
    """The hash of a user's state; `user` is the published form of the id, here and below."""
    return f"user:{{{user}}}"


def feed_key(user: str) -> str:
    """The string with a user's feed."""
    return f"feed:{{{user}}}"


def explain_key(user: str) -> str:
    """The string with the explanation of a user's feed."""
    return f"explain:{{{user}}}"


def ready_channel(user: str) -> str:
    """The channel that tells which requests of a user have just been answered."""
    return f"feed-ready:{{{user}}}"


class UserStates:
    """Reads and writes `user:{id}`.

    Args:
        client: of a Redis or a Redis Cluster; it must return bytes.

    """

    def __init__(self, client: Client) -> None:
        if client.get_encoder().decode_responses:
            raise ValueError("the state of users is binary: the client must not decode responses")
        self._client = client

    def append(self, updates: Sequence[UserUpdate], suffix: str) -> None:
        """Write a batch: a tail for each user and kind, called after the batch.

        Args:
            updates: entries, in any order.
            suffix: names the batch, the same when it is written again.

        Raises:
            redis.RedisError: where Redis does not take it; it may then be written in part, and should be again.
            ValueError: where what is stored cannot be read.

        """
        tails = _tails(updates, suffix)
        with self._client.pipeline(transaction=False) as pipe:
            for user, fields in tails.items():
                pipe.hset(user_key(user), mapping=fields)
                pipe.hlen(user_key(user))
            sizes = pipe.execute()[1::2]
        for user, size in zip(tails, sizes, strict=True):
            if size > MAX_FIELDS:
                self._compact(user)

    def add_served(self, user: str, post_ids: Sequence[int], at_ms: int, suffix: str) -> None:
        """Remember posts as served at a time; again with the same suffix it changes nothing. Raises like `append`."""
        self.append([UserUpdate(user, "served", view_entry(at_ms, post_id)) for post_id in post_ids], suffix)

    def read(self, users: Sequence[str]) -> list[UserState]:
        """The state of each user, an empty one where nothing is known; one round trip.

        Raises:
            redis.RedisError: where Redis does not answer.
            ValueError: where what is stored cannot be read; the text names the user.

        """
        with self._client.pipeline(transaction=False) as pipe:
            for user in users:
                pipe.hgetall(user_key(user))
            stored = pipe.execute()
        return [_decoded(user, fields) for user, fields in zip(users, stored, strict=True)]

    def _compact(self, user: str) -> None:
        """Join a user's tails into the bases; given up where somebody writes meanwhile: the next batch tries again."""
        key = user_key(user)
        with self._client.pipeline(transaction=True) as pipe:
            try:
                pipe.watch(key)
                bases, tails = compact(cast(Fields, pipe.hgetall(key)))
                if not tails:
                    return
                pipe.multi()
                pipe.hset(key, mapping=cast(Fields, bases))
                pipe.hdel(key, *tails)
                pipe.execute()
            except redis.WatchError:
                return


def _tails(updates: Sequence[UserUpdate], suffix: str) -> dict[str, Fields]:
    """The fields to write, by user."""
    grouped: dict[tuple[str, str], list[bytes]] = {}
    for user, kind, entry in updates:
        grouped.setdefault((user, kind), []).append(entry)
    tails: dict[str, Fields] = {}
    for (user, kind), entries in grouped.items():
        tails.setdefault(user, {})[kind.encode() + TAIL + suffix.encode()] = encode(kind, entries)
    return tails


def _decoded(user: str, fields: Fields) -> UserState:
    try:
        return decode(fields)
    except ValueError as error:
        raise ValueError(f"{user_key(user)} in Redis cannot be read: {error}") from error
