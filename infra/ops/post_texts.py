"""Read the texts of posts from the topic `thunder-posts`, for readers of feeds: a feed document has ids only."""

import time
from collections.abc import Callable, Collection
from contextlib import suppress

import msgspec

from infra.ports.settings import Settings
from infra.ports.topic_reader import scan
from thunder_ingest.events import key_of_id, unpack_post
from thunder_ingest.events.ids import id64


def read_texts(
    settings: Settings,
    posts: Collection[str],
    limit_s: float,
    advance: Callable[[float, float], None] = lambda _done, _total: None,
) -> dict[str, str]:
    """The newest texts of posts. The scan reads the whole topic, because a key may be in any partition.

    Args:
        settings: address of Kafka.
        posts: published forms of the ids.
        limit_s: maximum time of the scan; posts that it has not reached by then are missing in the result.
        advance: called with the number of messages read, and the number of all.

    Raises:
        BrokerUnreachable, TopicMissing: as `scan`.

    """
    if not posts:
        return {}
    form_of, texts = {key_of_id(id64(post)): post for post in posts}, dict[str, str]()
    deadline = time.monotonic() + limit_s
    for messages in scan(settings, ["thunder-posts"], advance):
        for message in messages:
            key, value = message.key(), message.value()
            if not isinstance(key, bytes) or key not in form_of:
                continue
            texts.pop(form_of[key], None)  # a deleted post has no text
            if value:
                with suppress(msgspec.DecodeError):  # workers log and skip an unreadable record
                    texts[form_of[key]] = unpack_post(value).text
        if time.monotonic() > deadline:
            break
    return texts
