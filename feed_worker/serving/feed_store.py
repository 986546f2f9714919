"""The feeds in Redis, and the ledger that makes answers idempotent.

If a worker dies between write and commit, the next worker computes its requests again. The first answer counts: the
ledger keeps it, and the next worker publishes it, too.
"""

from collections.abc import Sequence
from importlib.resources import files
from typing import Final, NamedTuple, cast

import msgspec

from feed_worker.documents.explanation import Explanation
from feed_worker.documents.feed import Feed
from infra.ports.redis import Client
from thunder_ingest.events import FeedServed, pack
from thunder_ingest.events.redis_keys import answered_key, explain_key, feed_key, ready_channel

LEDGER_TTL_S: Final = 3_600
"""The retention of `feed-requests`: an older request is never computed again."""

_TIDIED_EACH: Final = 256
"""Number of one viewer's answers between two clean-ups of the ledger: each answer renews the TTL of the whole key."""

_WRITE: Final = files(__package__).joinpath("feed_store.lua").read_text()
"""Run by EVAL: redis-py cannot send EVALSHA in a pipeline to a Redis Cluster."""


class Answer(NamedTuple):
    """A feed to write, its explanation if one was requested, and a record for each request that it answers.

    The first record is that of the computed request.
    """

    feed: Feed
    explanation: Explanation | None
    served: Sequence[FeedServed]


class FeedStore:
    """Writes `feed:{user}`, `explain:{user}` and `answered:{user}`; `feed_worker.client` reads them.

    Rules of precedence, applied atomically by a script in Redis:

    - The feed of an older request never replaces a newer one.
    - An `expired` or `failed` feed without items never replaces a feed with items. The reader keeps that feed and finds
      the request's status in the ledger. An `empty` feed replaces any: it states that there is nothing to show.
    - A request is answered once. If it was computed twice, the first answer also goes to the requests that only the
      second computation was merged with: its items were never shown, so no record may contain them.

    An explanation is written only together with its feed. It stays if a later feed has none; its request id shows
    the feed that it belongs to. Any thread may call.

    Args:
        client: of Redis.
        ttl_s: the time to live of feeds and explanations.

    """

    def __init__(self, client: Client, ttl_s: int) -> None:
        self._client, self._ttl_s = client, ttl_s

    def write(self, answers: Sequence[Answer]) -> list[bytes]:
        """Write answers in order and publish each request id to the viewer's channel; one round trip.

        Returns:
            the packed record that counts, for each request of each answer, in order: the first that was ever written.

        Raises:
            redis.RedisError: Redis does not answer or refuses a command; the call may be repeated.

        """
        if not answers:
            return []
        with self._client.pipeline(transaction=False) as pipe:
            for answer in answers:
                keys, arguments = self._arguments(answer)
                pipe.eval(_WRITE, len(keys), *keys, *arguments)
            replies = cast(list[list[bytes]], pipe.execute())
        return [record for records in replies for record in records]

    def _arguments(self, answer: Answer) -> tuple[list[str], list[str | int | bytes]]:
        feed, user = answer.feed, answer.feed.user_id
        keys = [feed_key(user), explain_key(user), answered_key(user), ready_channel(user)]
        document = msgspec.json.encode(feed)
        explained = msgspec.json.encode(answer.explanation) if answer.explanation else b""
        keeps = int(feed.status in ("expired", "failed") and not feed.items)
        arguments: list[str | int | bytes] = [feed.at, document, self._ttl_s, explained, keeps]
        arguments += [LEDGER_TTL_S, _TIDIED_EACH, feed.generated_at]
        for record in answer.served:
            arguments += [record.request_id, msgspec.msgpack.encode(record.request_id), pack(record)]
        return keys, arguments

    def are_answered(self, requests: Sequence[tuple[str, str]]) -> list[bool]:
        """True for each request, given by user and id, that is in the ledger; one round trip."""
        if not requests:
            return []
        with self._client.pipeline(transaction=False) as pipe:
            for user, request_id in requests:
                pipe.hexists(answered_key(user), request_id)
            return [bool(reply) for reply in pipe.execute()]
