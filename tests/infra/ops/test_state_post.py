import json
import sys

import pytest
from rich.console import Console

from infra.ops import state_post
from infra.ops.state_post import PostDocument
from infra.ports.errors import StateUnreadable
from infra.ports.producer import Record
from infra.ports.settings import Settings
from infra.terminal.state import post_view
from tests.infra.cli.foryou import foryou, unique, write, write_to
from thunder_ingest.counts.columns import COUNT_COLUMNS
from thunder_ingest.events import (
    ACTION_INDEX,
    IMPRESSION,
    Post,
    PostCounts,
    PostCreated,
    PostDeleted,
    PostEmbedding,
    PostEvent,
    PostLabeled,
    key_of_id,
    pack,
)
from thunder_ingest.events.ids import id64
from thunder_ingest.posts.table import changelog, from_event, join

pytestmark = pytest.mark.embedded

T0 = 1_700_000_000_000


def created(post: str, text: str = "Sailing across the bay", at: int = T0) -> PostCreated:
    return PostCreated(post_id=post, author_id="did:plc:ana", at=at, text=text, kind="reply", in_reply_to_post_id=3)


def record(*events: PostEvent) -> Record:
    post: Post = from_event(events[0])
    for event in events[1:]:
        post = join(post, from_event(event))
    return Record("thunder-posts", *changelog(post))


def read(settings: Settings, post: str) -> PostDocument | None:
    return state_post.read(settings, post, Console(file=sys.stderr))


def shown(document: PostDocument) -> str:
    console = Console(width=200, record=True, file=sys.stderr)
    console.print(post_view(document))
    return console.export_text()


def test_a_post_is_read_with_its_counts_and_its_vector(servers: Settings) -> None:
    post = unique("at://post")
    totals = [0] * COUNT_COLUMNS
    totals[ACTION_INDEX["favorite"]], totals[IMPRESSION] = 3, 40
    key = key_of_id(id64(post))
    label = PostLabeled(post_id=post, author_id="did:plc:ana", label="adult", at=T0 + 5)
    write(
        servers,
        record(created(post), label),
        Record("post-counts", key, pack(PostCounts(post_id=id64(post), at=T0 + 9, totals=totals))),
        Record("post-embeddings", key, pack(PostEmbedding(post_id=id64(post), model_version="m-1", vector=bytes(256)))),
    )
    document = read(servers, post)
    assert document is not None
    assert (document.post_id, document.number, document.state) == (post, str(id64(post)), "live")
    assert document.content is not None
    content = document.content
    assert (content.author_id, content.kind, content.in_reply_to_post_id) == ("did:plc:ana", "reply", "3")
    assert (content.text, content.tokens, content.labels) == ("Sailing across the bay", 4, {"adult": T0 + 5})
    assert document.counts is not None
    assert (document.counts.at, document.counts.totals["favorite"]) == (T0 + 9, 3)
    assert document.counts.totals["impressions"] == 40
    assert document.embedding is not None
    assert (document.embedding.model_version, document.embedding.dimensions) == ("m-1", 64)
    assert "adult since 2023-11-14 22:13:20.005Z" in shown(document)


def test_any_form_of_an_id_finds_the_post(servers: Settings) -> None:
    post = unique("at://post")
    write(servers, record(created(post)))
    document = read(servers, str(id64(post)))
    assert document is not None
    assert document.post_id == post


def test_the_newest_record_of_all_partitions_is_used(servers: Settings) -> None:
    post = unique("at://post")
    for partition, text in ((0, "first"), (1, "second"), (0, "third")):
        key, value, _ = changelog(from_event(created(post, text)))
        write_to(servers, "thunder-posts", partition, key, value)
    document = read(servers, post)
    assert document is not None
    assert document.content is not None
    assert document.record is not None
    assert (document.content.text, document.record.partition) == ("third", 0)


def test_a_deleted_post_has_the_time_of_its_deletion(servers: Settings) -> None:
    post = unique("at://post")
    deleted = PostDeleted(post_id=post, author_id="did:plc:ana", at=T0 + 7)
    write(servers, record(created(post)), record(created(post), deleted))
    document = read(servers, post)
    assert document is not None
    assert document.content is not None
    assert (document.state, document.content.deleted_at, document.content.text) == ("deleted", T0 + 7, "")
    assert "deleted_at" in shown(document)
    assert "2023-11-14 22:13:20.007Z" in shown(document)


def test_a_forgotten_post_and_a_post_with_labels_only_are_marked(servers: Settings) -> None:
    old, labelled = unique("at://old"), unique("at://labelled")
    label = PostLabeled(post_id=labelled, author_id=7, label="spam", at=T0, removed=True)
    write(servers, record(created(old)), Record("thunder-posts", key_of_id(id64(old)), None), record(label))
    forgotten, pending = read(servers, old), read(servers, labelled)
    assert forgotten is not None
    assert (forgotten.state, forgotten.content) == ("forgotten", None)
    assert pending is not None
    assert pending.state == "not created"
    assert "spam removed 2023" in shown(pending)


def test_a_post_with_counts_only_is_shown(servers: Settings) -> None:
    post = unique("at://never-published")
    write(servers, Record("post-counts", key_of_id(id64(post)), pack(PostCounts(post_id=1, at=T0, totals=[1] * 20))))
    document = read(servers, post)
    assert document is not None
    assert (document.state, document.record, document.embedding) == ("not there", None, None)
    assert "favorite" in shown(document)


def test_an_unreadable_record_is_reported_with_its_place(servers: Settings) -> None:
    post = unique("at://broken")
    write(servers, Record("thunder-posts", key_of_id(id64(post)), b"nonsense"))
    with pytest.raises(StateUnreadable, match=r"the record in thunder-posts\[\d\] at offset \d+ cannot be read"):
        read(servers, post)


def test_the_command_prints_json_and_fails_for_an_unknown_post_in_one_line(servers: Settings) -> None:
    post = unique("at://post")
    write(servers, record(created(post)))
    done = foryou("state", "post", post, "--json", settings=servers)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["content"]["text"] == "Sailing across the bay"
    done = foryou("state", "post", unique("at://nowhere"), settings=servers)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().splitlines()[-1].startswith("foryou: no state of post at://nowhere")


def test_an_unreachable_broker_is_reported_in_one_line() -> None:
    done = foryou("state", "post", "42", FORYOU_KAFKA="127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[-1].startswith("foryou: no Kafka broker answers at 127.0.0.1:1 ")
