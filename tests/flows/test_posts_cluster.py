"""Two processes of flows.posts: the events of one post in partitions of different processes."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from infra.ports.kafka_admin import create_topics
from infra.ports.producer import KafkaProducer, Record
from infra.ports.settings import Settings, load
from infra.ports.topic_reader import scan
from infra.stack.embedded import EmbeddedKafka
from tests.infra.waiting import eventually
from thunder_ingest.events import PostCreated, PostDeleted, PostLabeled, encode, unpack_post

pytestmark = pytest.mark.embedded

PROCESSES = 2
POSTS = range(1, 25)
T0 = 1_790_000_000_000


@pytest.fixture
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with EmbeddedKafka(tmp_path_factory.mktemp("kafka")) as kafka:
        settings = load(kafka=kafka.address, partitions=4, clock="log")
        create_topics(settings)
        yield settings


def addresses() -> str:
    with ExitStack() as open_:
        sockets = [open_.enter_context(socket.socket()) for _ in range(PROCESSES)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return ";".join(f"127.0.0.1:{each.getsockname()[1]}" for each in sockets)


def served(settings: Settings) -> dict[int, bytes | None]:
    messages = (message for batch in scan(settings, ["thunder-posts"]) for message in batch)
    return {int(message.key() or 0): message.value() for message in messages}


def test_deleted_and_labelled_posts_are_right_whichever_process_reads_an_event(settings: Settings) -> None:
    """Odd posts are deleted, even ones labelled, by events whose keys have nothing in common with the post's."""
    records = []
    for post_id in POSTS:
        word = PostDeleted if post_id % 2 else PostLabeled
        fields = {"author_id": 8} if post_id % 2 else {"label": "Gore"}
        moderated = word(post_id=post_id, at=T0 + 2, **fields)
        for key, event in enumerate((moderated, PostCreated(post_id=post_id, author_id=7, at=T0 + 1, text="x"))):
            records.append(Record("posts", f"{post_id}-{key}".encode(), encode(event)))
    producer = KafkaProducer(settings)
    producer.publish(records)
    producer.flush()
    command = [sys.executable, "-m", "flows", "posts", "-a", addresses(), "-i"]
    flows = [
        subprocess.Popen([*command, str(number)], env=os.environ | settings.environment())
        for number in range(PROCESSES)
    ]
    try:

        def right() -> bool:
            posts = served(settings)
            deleted = {post_id for post_id, value in posts.items() if value is None}
            gore = {id_ for id_, value in posts.items() if value and unpack_post(value).labels == {"gore": T0 + 2}}
            return deleted == {*POSTS[::2]} and gore == {*POSTS[1::2]}

        eventually(right)
        assert [flow.poll() for flow in flows] == [None] * PROCESSES
    finally:
        for flow in flows:
            flow.terminate()
    assert [flow.wait(60) for flow in flows] == [0] * PROCESSES
