"""The offsets up to which Redis has the writes of a flow: they show that Redis went back in time.

Redis acknowledges a write before its replicas and its disk have it. A replica that becomes the primary, or a restart
from a snapshot, may lack acknowledged writes. The hashes of users look whole even then. So the flow stores a position
with each batch, after the batch. If Redis has a position, it has all writes up to it, since a replica and a snapshot
have the writes in their order.

A batch states the position before it. If that of Redis is earlier, Redis lacks batches that it has acknowledged.

A Redis Cluster has one position for each SHARDS-th part of its slots: its primaries fail one by one.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from redis.cluster import RedisCluster
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from infra.ports.redis import Client, Command, pipelined
from thunder_ingest.events.redis_keys import position_key

SHARDS: Final = 16
"""Positions of a partition in a cluster. A primary with an eighth of the slots, in one piece, has one of them."""

_ADVANCE: Final = """
local stored, before, after = redis.pcall('GET', KEYS[1]), tonumber(ARGV[1]), tonumber(ARGV[2])
local known = type(stored) == 'string' and tonumber(stored)
if (known or tonumber(ARGV[3])) < before then return known or 0 end
if not known or known < after or after < before then redis.call('SET', KEYS[1], ARGV[2]) end
return -1
"""


class Span(NamedTuple):
    """The offsets of a batch of one partition; `after` is less than `before` if the log was deleted and created again.

    Attributes:
        part: name of the partition, or of another sequence of writes.
        before: the offset to read next before the batch.
        after: the same after the batch; equal for an empty batch.

    """

    part: str
    before: int
    after: int


class Positions:
    """Reads and writes the positions of one process. For one thread.

    Args:
        client: of Redis.

    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._tags = _TAGS if isinstance(client, RedisCluster) else _TAGS[:1]
        self._known = set[str]()

    def advance(self, span: Span) -> list[Command]:
        """The commands that check the position before a batch and store the one after it.

        A part without a position counts as complete once: an earlier version stored none.
        """
        missing = 0 if span.part in self._known else span.before
        return [("EVAL", _ADVANCE, 1, key, span.before, span.after, missing) for key in self._keys(span.part)]

    def stored(self, span: Span, replies: Sequence[Any]) -> int | None:
        """The position in Redis if it lies before the batch; None if Redis lacks nothing.

        Args:
            span: the offsets of the batch.
            replies: to the commands of `advance`.

        """
        self._known.add(span.part)
        return min((0 if isinstance(reply, Exception) else reply for reply in replies if reply != -1), default=None)

    def replace(self, span: Span) -> None:
        """Store the position after a batch in any case; raises redis.RedisError."""
        pipelined(self._client, [("SET", key, span.after) for key in self._keys(span.part)])

    def delete(self, part: str) -> None:
        """Delete the position of a part; raises redis.RedisError."""
        pipelined(self._client, [("DEL", key) for key in self._keys(part)])

    def _keys(self, part: str) -> list[str]:
        return [position_key(tag, part) for tag in self._tags]


def _tag(shard: int) -> str:
    """The least number in whose slot a shard begins, or soon after."""
    width = REDIS_CLUSTER_HASH_SLOTS // SHARDS
    return next(tag for tag in map(str, range(10_000)) if key_slot(tag.encode()) // width == shard)


_TAGS: Final = [_tag(shard) for shard in range(SHARDS)]
