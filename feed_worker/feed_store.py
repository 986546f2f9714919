"""Feeds in Redis: written so that an older request never overwrites a newer feed, and announced once they are there."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import msgspec

from feed_worker.feed import Explanation, Feed
from infra.redis import Client
from thunder_ingest.redis_form import explain_key, feed_key, ready_channel

# `at` is the first field of the document, so that comparing needs no parser
_WRITE = """
local known = redis.call('GET', KEYS[1])
local known_at = known and tonumber(string.match(known, '^{"at":(%d+)'))
local newer = not (known_at and known_at > tonumber(ARGV[1]))
if newer then
  redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
  if ARGV[4] ~= '' then redis.call('SET', KEYS[2], ARGV[4], 'EX', ARGV[3]) end
end
for i = 5, #ARGV do redis.call('PUBLISH', KEYS[3], ARGV[i]) end
return newer and 1 or 0
"""
_FEED = msgspec.json.Decoder(Feed)
_EXPLANATION = msgspec.json.Decoder(Explanation)


class Answer(NamedTuple):
    """A feed to be written, with its explanation where one was asked for."""

    feed: Feed
    explanation: Explanation | None


class FeedStore:
    """Reads and writes `feed:{user}` and `explain:{user}`."""

    def __init__(self, client: Client, ttl_s: int) -> None:
        self._client, self._ttl_s = client, ttl_s
        self._write = client.register_script(_WRITE)

    def write(self, answers: Sequence[Answer]) -> None:
        """Write feeds, each only if none of a later request is there, and announce every request answered."""
        for feed, explanation in answers:
            keys = [feed_key(feed.user_id), explain_key(feed.user_id), ready_channel(feed.user_id)]
            document = msgspec.json.encode(feed)
            explained = msgspec.json.encode(explanation) if explanation else b""
            self._write(keys=keys, args=[feed.at, document, self._ttl_s, explained, *feed.answers])

    def feed(self, user: str) -> Feed | None:
        """The newest feed of a user (published form), if there is one."""
        document = cast(bytes | None, self._client.get(feed_key(user)))
        return None if document is None else _FEED.decode(document)

    def explanation(self, user: str) -> Explanation | None:
        """The explanation of the last feed that was asked to be explained, if there is one."""
        document = cast(bytes | None, self._client.get(explain_key(user)))
        return None if document is None else _EXPLANATION.decode(document)
