"""What workers have left behind, held against what was asked of them. Each check yields what is wrong, in words."""

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
from tests.e2e.asking import App, is_poison
from tests.feed_worker.client.answering import feed_in
from thunder_ingest.events import FeedServed, FeedStatus, decode, unpack_dead_letter, unpack_feed_served
from thunder_ingest.events.ids import published_form

Place = tuple[int, int]
"""A partition of `feed-requests`, and an offset in it."""
Letter = tuple[bytes | None, bytes | None]
"""The key and the value of a message that cannot be used."""


class Written(NamedTuple):
    """Everything about requests that stands in Kafka and Redis."""

    requests: dict[Place, str]
    """The ids of the requests that can be used, by where they stand."""
    poison: dict[Place, Letter]
    served: dict[str, set[bytes]]
    """The records in `feeds-served` by request id; equal ones count once."""
    answered: dict[str, bytes]
    """The record in `answered:{user}` by request id."""
    letters: dict[Place, set[Letter]]


def written(settings: Settings, client: Client) -> Written:
    """All of it, as it stands now."""
    found = Written({}, {}, defaultdict(set), answered(client), defaultdict(set))
    for batch in scan(settings, ["feed-requests", "feeds-served", "dead-letters"]):
        for message in batch:
            _sort(found, message)
    return found


def answered(client: Client) -> dict[str, bytes]:
    """The ledgers of all users together."""
    hashes = [cast(dict[bytes, bytes], client.hgetall(key)) for key in client.scan_iter("answered:*", 1_000)]
    return {request.decode(): record for hash_ in hashes for request, record in hash_.items()}


def _sort(found: Written, message: Message) -> None:
    value, place = message.value() or b"", (message.partition() or 0, message.offset() or 0)
    if message.topic() == "feeds-served":
        found.served[unpack_feed_served(value).request_id].add(value)
    elif message.topic() == "dead-letters":
        letter = unpack_dead_letter(value)
        found.letters[letter.partition, letter.offset].add((letter.key, letter.value))
    elif is_poison(key := cast(bytes, message.key())):
        found.poison[place] = (key, value)
    else:
        found.requests[place] = decode("feed-requests", value).request_id


def committed(settings: Settings) -> dict[int, int]:
    """The workers' offsets, by partition of `feed-requests`."""
    consumer = Consumer(consumer_config(settings, group(settings, "feed-worker")))
    try:
        parts = partitions_of(settings, ["feed-requests"])["feed-requests"]
        found = consumer.committed([TopicPartition("feed-requests", part) for part in parts], timeout=30.0)
        return {part.partition: max(part.offset, 0) for part in found}
    finally:
        consumer.close()


def run_ahead(offsets: dict[int, int], found: Written) -> Iterator[str]:
    """Messages that are counted as finished, of which nothing is written."""
    for place in chain(found.requests, found.poison):
        if place[1] < offsets[place[0]] and (unwritten := _unwritten(found, place)):
            yield f"committed {offsets[place[0]]} of partition {place[0]}, but {unwritten}"


def unfinished(found: Written) -> Iterator[str]:
    """Messages of which nothing is written."""
    yield from filter(None, (_unwritten(found, place) for place in chain(found.requests, found.poison)))


def _unwritten(found: Written, place: Place) -> str:
    if place in found.poison:
        return "" if place in found.letters else f"{found.poison[place][0]!r} at {place} has no dead letter"
    request = found.requests[place]
    missing = [name for name in ("served", "answered") if request not in getattr(found, name)]
    return f"{request} at {place} is missing in {' and '.join(missing)}" if missing else ""


def unpublished(app: App, found: Written) -> Iterator[str]:
    """What the app says that it asked, and the log does not know: the test itself would be at fault."""
    count = len(found.requests) + len(found.poison)
    if count != app.published:
        yield f"{app.published} messages published, {count} found"
    yield from (f"{request} is not in the log" for request in app.asked.keys() - set(found.requests.values()))


def contradicted(found: Written) -> Iterator[str]:
    """Requests with two answers."""
    for request, records in found.served.items():
        both = records | {found.answered[request]} if request in found.answered else records
        if len(both) > 1:
            yield f"{request} was answered " + " and ".join(sorted(map(_brief, map(unpack_feed_served, both))))


def split(found: Written) -> Iterator[str]:
    """Requests that one computation is said to have answered, and answers that differ: nobody was shown one of them."""
    computed: dict[tuple[str, int], FeedServed] = {}
    for _, record in _records(found):  # a user's requests are all of different times
        first = computed.setdefault((record.user_form, record.at), record)
        if (first.status, first.post_ids) != (record.status, record.post_ids):
            yield f"{first.request_id} was answered {_brief(first)} and {record.request_id} {_brief(record)}"


def _brief(record: FeedServed) -> str:
    return f"{record.status} {record.post_ids} at {record.at} ({record.served_at})"


def misjudged(app: App, found: Written) -> Iterator[str]:
    """Answers to somebody else, or of more than was asked for; late requests that were computed for their own sake."""
    for request, record in _records(found):
        asked = app.asked.get(request)
        if asked is None:
            yield f"{request} was answered, and never asked"
        elif record.user_form != published_form(asked.request.user_id):
            yield f"{request} of {asked.request.user_id} was answered to {record.user_form}"
        elif asked.is_late and record.status != "expired" and record.at == asked.request.at:
            yield f"{request} was late, and is {record.status}"
        elif len(record.post_ids) > (asked.request.size or 0):
            yield f"{request} has {len(record.post_ids)} posts of {asked.request.size}"


def misfiled(found: Written) -> Iterator[str]:
    """Dead letters that are not what was published, or are of something that was fine."""
    for place, letters in found.letters.items():
        if place not in found.poison:
            yield f"{found.requests.get(place)} at {place} could be used, and is a dead letter"
        elif letters != {found.poison[place]}:
            yield f"{found.poison[place][0]!r} at {place} is not what its dead letter holds"


def outdated(found: Written, client: Client) -> Iterator[str]:
    """Users whose feed is not that of their newest request with posts, nor a later one that says why it has none."""
    newest: dict[str, FeedServed] = {}
    for _, record in _records(found):
        if record.post_ids and record.at >= newest.get(record.user_form, record).at:
            newest[record.user_form] = record
    for user, record in newest.items():
        feed = feed_in(client, user)
        if feed and feed.at > record.at and not feed.items:
            continue
        shown = feed and (feed.at, feed.status, [int(item.post_id) for item in feed.items])
        if shown != (record.at, record.status, record.post_ids):
            yield f"the feed of {user} is {shown}, not that of {record.request_id}: {_brief(record)}"


def unsafe(app: App, found: Written) -> Iterator[str]:
    """Feeds with an author whom the reader had blocked, or with a post that had gone, before they were asked for."""
    for request, record in _records(found):
        number = app.asked[request].number if request in app.asked else 0
        hidden = {whom for when, who, whom in app.blocked if when < number and who == record.user_id}
        if blocked := hidden & set(record.author_ids):
            yield f"{request} shows {blocked}, whom {record.user_form} blocks"
        if gone := {post_id for when, post_id in app.deleted if when < number} & set(record.post_ids):
            yield f"{request} shows {gone}, which had been deleted"


def statuses(found: Written) -> dict[FeedStatus, int]:
    """How many requests ended how."""
    counts: dict[FeedStatus, int] = defaultdict(int)
    for _, record in _records(found):
        counts[record.status] += 1
    return dict(counts)


def _records(found: Written) -> Iterator[tuple[str, FeedServed]]:
    return ((request, unpack_feed_served(record)) for request, records in found.served.items() for record in records)
