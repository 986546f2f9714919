"""The records of all requests, and their invariants. Each invariant is a generator of violations in words."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple, cast

from confluent_kafka import Consumer, Message, TopicPartition

from infra.ports.consumer import partitions_of
from infra.ports.kafka_config import consumer_config, group
from infra.ports.redis import Client
from infra.ports.settings import Settings
from infra.ports.topic_reader import scan
from tests.e2e.app import App, is_poison
from tests.feed_worker.client.answering import feed_in
from thunder_ingest.events import FeedServed, FeedStatus, decode, unpack_dead_letter, unpack_feed_served
from thunder_ingest.events.dead_letters import KEPT_VALUE_BYTES
from thunder_ingest.events.ids import published_form

Place = tuple[int, int]
"""Partition and offset of a message in `feed-requests`."""
Letter = tuple[bytes | None, bytes | None]
"""Key and value of a poison message."""
REFUSED = "p-"
"""The beginning of the request ids in poison messages. One with a user and a request id is answered `failed`."""


class Records(NamedTuple):
    """All records of requests in Kafka and Redis."""

    requests: dict[Place, str]
    """The ids of the valid requests by place."""
    poison: dict[Place, Letter]
    """The poison messages by place."""
    served: dict[str, set[bytes]]
    """The records in `feeds-served` by request id; equal records count once."""
    answered: dict[str, bytes]
    """The record in `answered:{user}` by request id."""
    letters: dict[Place, set[Letter]]
    """The dead letters by the place of their message."""


def read_records(settings: Settings, client: Client) -> Records:
    """Read all records of requests."""
    records = Records({}, {}, defaultdict(set), answered(client), defaultdict(set))
    for batch in scan(settings, ["feed-requests", "feeds-served", "dead-letters"]):
        for message in batch:
            _add(records, message)
    return records


def answered(client: Client) -> dict[str, bytes]:
    """The ledger `answered:{user}` of all users: records by request id."""
    hashes = [cast(dict[bytes, bytes], client.hgetall(key)) for key in client.scan_iter("answered:*", 1_000)]
    return {request.decode(): record for hash_ in hashes for request, record in hash_.items()}


def _add(records: Records, message: Message) -> None:
    value, place = message.value() or b"", (message.partition() or 0, message.offset() or 0)
    if message.topic() == "feeds-served":
        records.served[unpack_feed_served(value).request_id].add(value)
    elif message.topic() == "dead-letters":
        letter = unpack_dead_letter(value)
        records.letters[letter.partition, letter.offset].add((letter.key, letter.value))
    elif is_poison(key := cast(bytes, message.key())):
        records.poison[place] = (key, value[:KEPT_VALUE_BYTES])
    else:
        records.requests[place] = decode("feed-requests", value).request_id


def committed(settings: Settings) -> dict[int, int]:
    """The committed offsets of the workers by partition of `feed-requests`."""
    consumer = Consumer(consumer_config(settings, group(settings, "feed-worker")))
    try:
        parts = partitions_of(settings, ["feed-requests"])["feed-requests"]
        found = consumer.committed([TopicPartition("feed-requests", part) for part in parts], timeout=30.0)
        return {part.partition: max(part.offset, 0) for part in found}
    finally:
        consumer.close()


def committed_but_unanswered(offsets: dict[int, int], records: Records) -> Iterator[str]:
    """Messages before a committed offset without an answer or a dead letter."""
    for place in chain(records.requests, records.poison):
        if place[1] < offsets[place[0]] and (missing := _missing(records, place)):
            yield f"committed {offsets[place[0]]} of partition {place[0]}, but {missing}"


def unfinished(records: Records) -> Iterator[str]:
    """Messages without an answer or a dead letter."""
    yield from filter(None, (_missing(records, place) for place in chain(records.requests, records.poison)))


def _missing(records: Records, place: Place) -> str:
    if place in records.poison:
        return "" if place in records.letters else f"{records.poison[place][0]!r} at {place} has no dead letter"
    request = records.requests[place]
    missing = [name for name in ("served", "answered") if request not in getattr(records, name)]
    return f"{request} at {place} is missing in {' and '.join(missing)}" if missing else ""


def missing_in_log(app: App, records: Records) -> Iterator[str]:
    """Messages of the app that are missing in the log. A violation is an error of the test itself."""
    count = len(records.requests) + len(records.poison)
    if count != app.published:
        yield f"{app.published} messages published, {count} found"
    yield from (f"{request} is not in the log" for request in app.sent.keys() - set(records.requests.values()))


def answered_twice(records: Records) -> Iterator[str]:
    """Requests with two different answers."""
    for request, answers in records.served.items():
        both = answers | {records.answered[request]} if request in records.answered else answers
        if len(both) > 1:
            yield f"{request} was answered " + " and ".join(sorted(map(_brief, map(unpack_feed_served, both))))


def inconsistent_batches(records: Records) -> Iterator[str]:
    """Requests of one user that one computation answered with different feeds."""
    computed: dict[tuple[str, int], FeedServed] = {}
    for _, record in _answers(records):  # the requests of one user have different times
        first = computed.setdefault((record.user_form, record.at), record)
        if (first.status, first.post_ids) != (record.status, record.post_ids):
            yield f"{first.request_id} was answered {_brief(first)} and {record.request_id} {_brief(record)}"


def _brief(record: FeedServed) -> str:
    return f"{record.status} {record.post_ids} at {record.at} ({record.served_at})"


def wrong_answers(app: App, records: Records) -> Iterator[str]:
    """Answers to another user, answers with too many posts, and late or refused requests that were computed."""
    for request, record in _answers(records):
        sent = app.sent.get(request)
        if sent is None and not request.startswith(REFUSED):
            yield f"{request} was answered, but never published"
        elif sent is None:
            if record.status != "failed":
                yield f"{request} was refused, and is {record.status}"
        elif record.user_form != published_form(sent.request.user_id):
            yield f"{request} of {sent.request.user_id} was answered for {record.user_form}"
        elif sent.is_late and record.status != "expired" and record.at == sent.request.at:
            yield f"{request} was late, and is {record.status}"
        elif len(record.post_ids) > (sent.request.size or 0):
            yield f"{request} has {len(record.post_ids)} posts of {sent.request.size}"


def wrong_dead_letters(records: Records) -> Iterator[str]:
    """Dead letters of valid messages, and dead letters that differ from their message."""
    for place, letters in records.letters.items():
        if place not in records.poison:
            yield f"{records.requests.get(place)} at {place} is valid, but has a dead letter"
        elif letters != {records.poison[place]}:
            yield f"{records.poison[place][0]!r} at {place} differs from its dead letter"


def stale_feeds(app: App, records: Records, client: Client) -> Iterator[str]:
    """Users whose feed is not that of the last request that was answered with posts, in the order of the log.

    A request may be in the log twice: its feed may count as of either place. A later feed without posts is allowed.
    """
    offsets: dict[str, list[int]] = defaultdict(list)
    for (_, offset), request in records.requests.items():
        offsets[request].append(offset)
    sent = ((each.request, offsets[request]) for request, each in app.sent.items())
    places = {(published_form(request.user_id), request.at): own for request, own in sent}
    answers = {(record.user_form, record.at): record for _, record in _answers(records) if record.post_ids}
    newest: dict[str, FeedServed] = {}
    for (user, at), record in answers.items():
        if min(places[user, at]) >= min(places[user, newest.get(user, record).at]):
            newest[user] = record
    for user, record in newest.items():
        feed = feed_in(client, user)
        if feed and not feed.items:
            continue
        shown = feed and (feed.at, feed.status, [int(item.post_id) for item in feed.items])
        same = feed and answers.get((user, feed.at))
        is_known = same and shown == (same.at, same.status, same.post_ids)
        if not feed or not is_known or max(places[user, feed.at]) < min(places[user, record.at]):
            answer = f"answered as {_brief(same)}" if same else "without an answer"
            yield f"the feed of {user} is {shown}, {answer}, not that of {record.request_id}: {_brief(record)}"


def unsafe_feeds(app: App, records: Records) -> Iterator[str]:
    """Feeds that show an author blocked, or a post deleted, before the request."""
    for request, record in _answers(records):
        number = app.sent[request].number if request in app.sent else 0
        hidden = {author for at, user, author in app.blocked if at < number and user == record.user_id}
        if blocked := hidden & set(record.author_ids):
            yield f"{request} shows {blocked}, whom {record.user_form} blocks"
        if deleted := {post_id for at, post_id in app.deleted if at < number} & set(record.post_ids):
            yield f"{request} shows {deleted}, which had been deleted"


def statuses(records: Records) -> dict[FeedStatus, int]:
    """The number of answers by status."""
    counts: dict[FeedStatus, int] = defaultdict(int)
    for _, record in _answers(records):
        counts[record.status] += 1
    return dict(counts)


def _answers(records: Records) -> Iterator[tuple[str, FeedServed]]:
    return ((request, unpack_feed_served(record)) for request, answers in records.served.items() for record in answers)
