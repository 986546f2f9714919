"""What an app sees: events in, feeds out."""

import itertools
import time
import uuid
from typing import Any

import pytest

from feed_worker.client import Client
from feed_worker.feed import Feed
from infra.kafka import read_to_end
from infra.settings import Settings
from tests.e2e.conftest import eventually
from thunder_ingest.events import DeadLetter, unpack_dead_letter

_ids = itertools.count(1_000_000)


def new_id() -> int:
    return next(_ids)


def now() -> int:
    return time.time_ns() // 1_000_000


def post(author: Any, text: str = "sailing across the bay", **fields: Any) -> dict[str, Any]:
    return {"type": "post_created", "post_id": new_id(), "author_id": author, "at": now(), "text": text} | fields


def follow(user: Any, author: Any) -> dict[str, Any]:
    return {"type": "follow", "user_id": user, "target_id": author, "at": now()}


def shown(client: Client, user: Any, **options: Any) -> dict[str, str]:
    """Post ids and their authors in a new feed."""
    feed = client.wait(user, client.request_feed(user, **options), timeout_s=30)
    assert feed.status in ("ok", "degraded", "empty")
    return {item.post_id: item.author_id for item in feed.items}


def test_a_follower_is_shown_what_was_posted_a_moment_ago(client: Client) -> None:
    viewer, author = new_id(), new_id()
    posted = post(author)
    client.publish([follow(viewer, author), posted])
    assert eventually(lambda: str(posted["post_id"]) in shown(client, viewer))


def test_ids_come_back_in_the_form_in_which_they_were_published(client: Client) -> None:
    viewer = f"did:plc:{uuid.uuid4().hex}"
    authors: list[str | int] = [
        2**63 - 1 - new_id(),
        str(uuid.uuid4()),
        f"did:web:{uuid.uuid4().hex}.example",
        f"https://social.example/@ana/{new_id()}?page=1#top",
        "ユーザー" + uuid.uuid4().hex,
    ]
    posts = [post(author, post_id=f"at://{author}/post/{uuid.uuid4()}") for author in authors]
    client.publish([*(follow(viewer, author) for author in authors), *posts])
    expected = {str(each["post_id"]): str(each["author_id"]) for each in posts}
    assert eventually(lambda: expected.items() <= shown(client, viewer).items())
    assert (feed := client.feed(viewer)) is not None
    assert feed.user_id == viewer


@pytest.mark.parametrize(
    "event",
    [
        {"type": "block"},
        {"type": "mute"},
    ],
    ids=lambda event: str(event["type"]),
)
def test_an_author_who_is_blocked_or_muted_is_gone(client: Client, event: dict[str, Any]) -> None:
    viewer, author = new_id(), new_id()
    posted = post(author)
    client.publish([follow(viewer, author), posted])
    assert eventually(lambda: str(posted["post_id"]) in shown(client, viewer))
    client.publish(event | {"user_id": viewer, "target_id": author, "at": now()})
    assert eventually(lambda: str(author) not in shown(client, viewer).values())


def test_a_viewer_whom_the_author_blocks_sees_nothing_of_them(client: Client) -> None:
    viewer, author = new_id(), new_id()
    client.publish([follow(viewer, author), post(author)])
    assert eventually(lambda: str(author) in shown(client, viewer).values())
    client.publish({"type": "block", "user_id": author, "target_id": viewer, "at": now()})
    assert eventually(lambda: str(author) not in shown(client, viewer).values())


@pytest.mark.parametrize("gone", ["deleted", "labeled"])
def test_a_post_that_is_deleted_or_labelled_unsafe_is_gone(client: Client, gone: str) -> None:
    viewer, author = new_id(), new_id()
    posted = post(author)
    client.publish([follow(viewer, author), posted])
    assert eventually(lambda: str(posted["post_id"]) in shown(client, viewer))
    fields = {"post_id": posted["post_id"], "author_id": author, "at": now(), "label": "spam"}
    client.publish({"type": f"post_{gone}"} | fields)
    assert eventually(lambda: str(posted["post_id"]) not in shown(client, viewer))


def test_what_was_on_the_screen_or_is_muted_or_ones_own_is_not_shown(client: Client) -> None:
    viewer, author = new_id(), new_id()
    seen, muted, fresh = post(author), post(author, "nothing but Football Scores today"), post(author)
    own = post(viewer)
    client.publish([follow(viewer, author), seen, muted, fresh, own])
    wanted = str(fresh["post_id"])
    assert eventually(lambda: wanted in shown(client, viewer))
    client.publish(
        [
            {"type": "impression", "user_id": viewer, "post_id": seen["post_id"], "author_id": author, "at": now()},
            {"type": "mute_keyword", "user_id": viewer, "keyword": "football scores", "at": now()},
        ]
    )
    hidden = {str(each["post_id"]) for each in (seen, muted)}
    assert eventually(lambda: not hidden & shown(client, viewer).keys())
    assert str(own["post_id"]) not in shown(client, viewer)


def test_an_unknown_viewer_gets_what_is_popular_and_fresh(client: Client) -> None:
    viewer, author, fan = new_id(), new_id(), new_id()
    posted = post(author)
    liked = {"type": "engagement", "action": "favorite", "user_id": fan, "author_id": author, "at": now()}
    client.publish([posted, liked | {"post_id": posted["post_id"]}])
    assert eventually(lambda: shown(client, viewer))
    assert (feed := client.feed(viewer)) is not None
    assert feed.status in ("ok", "degraded")


def test_an_explanation_adds_up(client: Client) -> None:
    viewer, author = new_id(), new_id()
    client.publish([follow(viewer, author), *(post(author) for _ in range(3))])
    assert eventually(lambda: len([a for a in shown(client, viewer, explain=True).values() if a == str(author)]) == 3)
    feed, explanation = client.feed(viewer), client.explain(viewer)
    assert feed is not None
    assert explanation is not None
    assert explanation.request_id == feed.request_id
    assert [item.post_id for item in explanation.items] == [item.post_id for item in feed.items]
    for item in explanation.items:
        terms = sum(term.contribution for term in item.terms)
        assert item.combined == pytest.approx(terms, rel=1e-3, abs=1e-6)


MALFORMED = {
    "posts": b'{"type":"post_created","post_id":-3,"author_id":1,"at":1}',
    "engagements": b'{"type":"engagement","user_id":1,"post_id":1,"author_id":1,"action":"like","at":1}',
    "social-graph": b"not json at all \xff",
    "feed-requests": b'{"type":"feed_request","request_id":"r","user_id":1,"at":1,"size":100000}',
}


def dead_letters(settings: Settings) -> list[DeadLetter]:
    return [unpack_dead_letter(m.value()) for batch in read_to_end(settings, "dead-letters") for m in batch]


@pytest.mark.parametrize("topic", MALFORMED)
def test_a_message_that_cannot_be_used_becomes_one_dead_letter(client: Client, settings: Settings, topic: str) -> None:
    marker = uuid.uuid4().hex.encode()
    raw = MALFORMED[topic]
    client.publish_raw(topic, marker, raw)
    client.flush()

    def found() -> list[DeadLetter]:
        return [letter for letter in dead_letters(settings) if letter.key == marker]

    (letter,) = eventually(found)
    assert (letter.topic, letter.value) == (topic, raw)
    assert letter.reason
    assert shown(client, new_id()) is not None  # everything goes on


def test_each_request_that_waits_is_answered_once_and_the_newest_feed_stays(client: Client) -> None:
    viewer = new_id()
    at = now()
    requests = [client.request_feed(viewer, at=at - age) for age in (0, 2_000, 1_000)]
    answered: dict[str, Feed] = {}
    for request in requests:
        answered[request] = client.wait(viewer, request, timeout_s=30)
    assert (feed := client.feed(viewer)) is not None
    assert feed.at == at
