"""The feeds in Redis, and the ledger that makes answers idempotent.

If a worker dies between write and commit, the next worker computes its requests again. The first answer counts: the
ledger keeps it, and the next worker publishes it, too.
"""

from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from typing import Any, Final, NamedTuple

import msgspec

from feed_worker.documents.explanation import Explanation
from feed_worker.documents.feed import Feed
from infra.ports.broken_keys import broken_keys
from infra.ports.redis import Client, Command, pipelined
from thunder_ingest.events import FeedServed, pack, unpack_feed_served
from thunder_ingest.events.redis_keys import (
    answered_before_key,
    answered_key,
    explain_key,
    feed_key,
    preview_key,
    ready_channel,
    replaced_key,
)

LEDGER_TTL_S: Final = 3_600
"""The retention of `feed-requests`: an older request is never computed again."""

FULL_LEDGER: Final = 2_048
"""The answers of a viewer after which a new ledger starts; the ones before are kept until that is full, too."""

REPLACED_TTL_S: Final = 600
MAX_REPLACED: Final = 16
"""The feeds of a viewer that are kept for their own readers after a later one has replaced them."""

_TOGETHER: Final = 32
"""Requests of one answer in a call of the script: Redis serves no other client meanwhile."""

PREVIEW_TTL_S: Final = 60
_PREVIEW: Final = "redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2]); redis.call('PUBLISH', KEYS[2], ARGV[3])"

_TYPES: Final = (b"string", b"string", b"hash", b"hash", b"list")
"""The types of the keys of an answer: feed, explanation, the two ledgers, replaced feeds."""

_WRITE: Final = files(__package__).joinpath("feed_store.lua").read_text()
"""Run by EVAL: redis-py cannot send EVALSHA in a pipeline to a Redis Cluster."""


class Answer(NamedTuple):
    """A feed to write, its explanation if one was requested, and a record for each request that it answers.

    The first record is that of the computed request. `withdraws` is True for an `empty` feed that states that nothing
    at all may be shown.
    """

    feed: Feed
    explanation: Explanation | None
    served: Sequence[FeedServed]
    withdraws: bool = False


class FeedStore:
    """Writes `feed:{user}`, `explain:{user}`, `replaced:{user}` and the ledger; `feed_worker.client` reads them.

    Rules of precedence, applied atomically by a script in Redis:

    - The feed of an older request never replaces a newer one, by arrival and offset of the requests. It goes to
      `replaced:{user}`, as does a feed that is replaced: each reader finds the answer to its own request there.
    - An `expired` or `failed` feed never replaces another one. An `empty` feed replaces a feed with items only if it
      withdraws it: the items may no longer be shown. Otherwise the reader keeps the feed and finds the request's status
      in the ledger, and an `empty` feed also in `replaced:{user}`. Any feed replaces an `expired` or `failed` one.
    - A request is answered once. If it was computed twice, the first answer also goes to the requests that only the
      second computation was merged with: its items were never shown, so no record may contain them.

    An explanation is written together with its feed. That of a feed without items is also written if an older feed
    stays: it has the reasons. It stays if a later feed has none; its request id shows the feed that it belongs to. Any
    thread may call.

    Args:
        client: of Redis.
        ttl_s: the time to live of feeds and explanations.

    """

    def __init__(self, client: Client, ttl_s: int) -> None:
        self._client, self._ttl_s = client, ttl_s

    def write(self, answers: Sequence[Answer]) -> list[bytes]:
        """Write answers in order and publish each request id to the viewer's channel; one round trip.

        A key of an answer that holds a value of another type is deleted, counted and named in the log, and the answer
        is written again: these keys are derived, and expire in any case.

        Returns:
            the packed record that counts, for each request of each answer, in order: the first that was ever written.

        Raises:
            redis.RedisError: Redis does not answer or refuses a command; the call may be repeated.

        """
        if not answers:
            return []
        commands, written = list[Command](), list[tuple[str, Sequence[FeedServed]]]()
        for answer in answers:
            keys = self._keys(answer.feed.user_id)
            for records, arguments in self._calls(answer):
                commands.append(("EVAL", _WRITE, len(keys), *keys, *arguments))  # `eval` of a cluster's pipeline fails
                written.append((answer.feed.user_id, records))
        replies = pipelined(self._client, commands)
        if broken := [number for number, reply in enumerate(replies) if isinstance(reply, Exception)]:
            self._delete_broken({written[number][0] for number in broken})
            again = pipelined(self._client, [commands[number] for number in broken])
            for number, reply in zip(broken, again, strict=True):
                replies[number] = reply
        counted = zip(written, replies, strict=True)
        return [record for (user, records), reply in counted for record in _counted(user, records, reply)]

    def _delete_broken(self, users: Iterable[str]) -> None:
        """Delete the keys of these users' answers that hold a value of another type."""
        keys = [(key, expected) for user in users for key, expected in zip(self._keys(user), _TYPES, strict=False)]
        types = pipelined(self._client, [("TYPE", key) for key, _ in keys])
        broken = [key for (key, expected), found in zip(keys, types, strict=True) if found not in (expected, b"none")]
        for key in broken:
            broken_keys.skip(key, "it held a value of another type, and was deleted")
        pipelined(self._client, [("UNLINK", key) for key in broken])

    def _keys(self, user: str) -> list[str]:
        ledger = answered_key(user), answered_before_key(user)
        return [feed_key(user), explain_key(user), *ledger, replaced_key(user), ready_channel(user)]

    def _calls(self, answer: Answer) -> Iterator[tuple[Sequence[FeedServed], list[str | int | bytes]]]:
        """The records and the arguments of each call of the script; the first one writes the documents."""
        feed = answer.feed
        document = msgspec.json.encode(feed)
        explained = msgspec.json.encode(answer.explanation) if answer.explanation else b""
        limits = [LEDGER_TTL_S, FULL_LEDGER, REPLACED_TTL_S, MAX_REPLACED]
        computed = answer.served[0].request_id
        for first in range(0, len(answer.served), _TOGETHER):
            arguments: list[str | int | bytes] = [feed.arrived_at, feed.offset, document, self._ttl_s, explained]
            arguments += [int(answer.withdraws), *limits, computed, msgspec.msgpack.encode(computed)]
            records = answer.served[first : first + _TOGETHER]
            for record in records:
                arguments += [record.request_id, msgspec.msgpack.encode(record.request_id), pack(record)]
            yield records, arguments
            document = b""

    def write_previews(self, feeds: Sequence[Feed]) -> None:
        """Write answers that leave no other trace, and publish their request ids; raises like `write`."""
        commands: list[Command] = []
        for feed in feeds:
            document = msgspec.json.encode(feed)
            for request_id in feed.answers:
                keys = preview_key(feed.user_id, request_id), ready_channel(feed.user_id)
                commands.append(("EVAL", _PREVIEW, len(keys), *keys, document, PREVIEW_TTL_S, request_id))
        pipelined(self._client, commands)

    def are_answered(self, requests: Sequence[tuple[str, str]]) -> list[bool]:
        """True for each request, given by user and id, that is in the ledger; one round trip.

        A ledger of another type counts as empty: `write` replaces it.
        """
        replies = [reply == 1 for reply in self._in_ledgers("HEXISTS", requests)]
        return [now or before for now, before in zip(replies[::2], replies[1::2], strict=True)]

    def first_pages(self, requests: Sequence[tuple[str, str]]) -> list[int]:
        """For each request, given by user and id, the time under which its first page was served; one round trip.

        0 for a request that is in no ledger: the answers of an hour are known.
        """
        found = list(map(_first_page_at, self._in_ledgers("HGET", requests)))
        return [now or before for now, before in zip(found[::2], found[1::2], strict=True)]

    def _in_ledgers(self, command: str, requests: Sequence[tuple[str, str]]) -> list[Any]:
        """The replies of both ledgers for each request."""
        if not requests:
            return []
        keys = ((key(user), request_id) for user, request_id in requests for key in (answered_key, answered_before_key))
        return pipelined(self._client, [(command, key, request_id) for key, request_id in keys])


def _first_page_at(record: bytes | Exception | None) -> int:
    return unpack_feed_served(record).first_page_at if isinstance(record, bytes) else 0


def _counted(user: str, records: Sequence[FeedServed], reply: list[bytes] | Exception) -> Sequence[bytes]:
    """The records that count: without a ledger they are the new ones."""
    if isinstance(reply, Exception):
        broken_keys.skip(answered_key(user), reply)
        return [pack(record) for record in records]
    return reply
