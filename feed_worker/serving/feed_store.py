"""Feeds in Redis, and the ledger that gives each request one answer however often it is computed.

A worker that dies between writing and committing leaves its requests to the next one, which computes them again. What
counts is what was written first: the ledger keeps it, and it is what the later worker publishes too.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, cast

import msgspec

from feed_worker.documents.explanation import Explanation
from feed_worker.documents.feed import Feed
from infra.ports.redis import Client
from thunder_ingest.events import FeedServed, pack
from thunder_ingest.events.redis_keys import answered_key, explain_key, feed_key, ready_channel

LEDGER_TTL_S: Final = 3_600
"""As long as the topic keeps a request: what is older is never computed again."""

_TIDIED_EACH: Final = 256
"""Answers of one viewer after which those older than the ledger's time are looked for; its key lives on with each."""

# `at` is the first field of the document, and `items` are empty or not, so that comparing needs no parser; a record is
# an array whose first field is the request id, so that it becomes another request's by an exchange of bytes
_WRITE: Final = """
local feed, explain, answered, channel = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local at, document, ttl, explained, keeps = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4], ARGV[5] == '1'
local ledger_ttl, tidied_each, served_at = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])

local first = redis.call('HGET', answered, ARGV[9])
if not first then
  local known = redis.call('GET', feed)
  local known_at = known and tonumber(string.match(known, '^{"at":(%d+)'))
  local older = known_at and known_at > at
  local has_items = known and not string.find(known, '"items":[]', 1, true)
  if not older and not (keeps and has_items) then
    redis.call('SET', feed, document, 'EX', ttl)
    if explained ~= '' then redis.call('SET', explain, explained, 'EX', ttl) end
  end
end

local before, records = redis.call('HLEN', answered), {}
for i = 9, #ARGV, 3 do
  local record = ARGV[i + 2]
  if first then
    local header = string.byte(first) == 0xdc and 3 or 1
    record = string.sub(first, 1, header) .. ARGV[i + 1] .. string.sub(first, header + #ARGV[10] + 1)
  end
  redis.call('HSETNX', answered, ARGV[i], record)
  records[#records + 1] = redis.call('HGET', answered, ARGV[i])
  redis.call('PUBLISH', channel, ARGV[i])
end
redis.call('EXPIRE', answered, ledger_ttl)

if math.floor(redis.call('HLEN', answered) / tidied_each) > math.floor(before / tidied_each) then
  local entries = redis.call('HGETALL', answered)
  for i = 1, #entries, 2 do
    if cmsgpack.unpack(entries[i + 1])[5] < served_at - 1000 * ledger_ttl then
      redis.call('HDEL', answered, entries[i])
    end
  end
end
return records
"""


class Answer(NamedTuple):
    """A feed to be written, with its explanation where one was asked for, and a record for each request it answers.

    The first record is that of the request that was computed.
    """

    feed: Feed
    explanation: Explanation | None
    served: Sequence[FeedServed]


class FeedStore:
    """Writes `feed:{user}`, `explain:{user}` and `answered:{user}`, read by `feed_worker.client.answer_lookup`.

    Which answer becomes the viewer's feed:

    - never one of an older request than that of the feed that is there;
    - never one without items because it is `expired` or `failed`, where a feed that has items is there: the reader
      keeps it, and learns from the ledger what became of the request. `empty` is a feed: there is nothing to show;
    - never a second answer to one request. Others that its second computation was to answer get the first answer too:
      what nobody is shown is nobody's record.

    An explanation is written with the feed that it explains, and only where that is written; it stays when a later feed
    is not explained. Its request id tells whether it belongs to the feed that is there.
    """

    def __init__(self, client: Client, ttl_s: int) -> None:
        self._client, self._ttl_s = client, ttl_s

    def write(self, answers: Sequence[Answer]) -> list[bytes]:
        """Write answers in their order, and announce every request answered; one round trip.

        Returns:
            for each request of each answer, in order, the packed record that counts: the first that was ever written.

        """
        if not answers:
            return []
        with self._client.pipeline(transaction=False) as pipe:
            for answer in answers:
                keys, arguments = self._call(answer)
                pipe.eval(_WRITE, len(keys), *keys, *arguments)
            replies = cast(list[list[bytes]], pipe.execute())
        return [record for records in replies for record in records]

    def _call(self, answer: Answer) -> tuple[list[str], list[str | int | bytes]]:
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
        """Whether requests, by user and id, are in the ledger; one round trip."""
        if not requests:
            return []
        with self._client.pipeline(transaction=False) as pipe:
            for user, request_id in requests:
                pipe.hexists(answered_key(user), request_id)
            return [bool(reply) for reply in pipe.execute()]
