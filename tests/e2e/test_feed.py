"""Feeds of the whole system from the view of an app: it publishes events and reads feeds."""

import asyncio
import itertools
import uuid
from typing import Any

import pytest
from confluent_kafka import KafkaError, Message, Producer

from feed_worker.client import Client, NoFeed
from feed_worker.client.async_client import AsyncClient
from feed_worker.documents.feed import Feed
from infra.ports.clock import now_ms
from infra.ports.settings import Settings
from infra.ports.topic_reader import scan
from infra.ports.topics import INPUTS
from infra.stack.stack import Stack
from tests.e2e.conftest import LONG_S, eventually
from thunder_ingest.events import DeadLetter, unpack_dead_letter
from thunder_ingest.events.dead_letters import KEPT_VALUE_BYTES
from thunder_ingest.users.redis_form import UserStates

_ids = itertools.count(1_000_000)


def new_id() -> int:
    return next(_ids)


def now() -> int:
    return now_ms()


def post(author: Any, text: str = "sailing across the bay", **fields: Any) -> dict[str, Any]:
    return {"type": "post_created", "post_id": new_id(), "author_id": author, "at": now(), "text": text} | fields


def follow(user: Any, author: Any) -> dict[str, Any]:
    return {"type": "follow", "user_id": user, "target_id": author, "at": now()}


def shown(client: Client, user: Any, **options: Any) -> dict[str, str]:
    """Post ids and their authors in a new feed."""
    feed = client.wait(user, client.request_feed(user, **options), timeout_s=LONG_S)
    assert feed.status in ("ok", "degraded", "empty")
    return {item.post_id: item.author_id for item in feed.items}


def first_feed(client: Client, *authors: Any) -> dict[str, str]:
    """The first feed of a new user who follows these authors. No post was seen or served before."""
    viewer = new_id()
    client.publish([follow(viewer, author) for author in authors])
    users = UserStates(client.redis)
    assert eventually(lambda: len(users.read([str(viewer)])[0].following) == len(authors))
    return shown(client, viewer, size=200)


@pytest.fixture
def users(client: Client) -> UserStates:
    return UserStates(client.redis)


def test_a_new_post_is_shown_to_a_follower(client: Client) -> None:
    author = new_id()
    posted = post(author)
    client.publish(posted)
    assert eventually(lambda: str(posted["post_id"]) in first_feed(client, author))


def test_ids_keep_their_published_form(client: Client, users: UserStates) -> None:
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
    assert eventually(lambda: expected.items() <= first_feed(client, *authors).items())
    assert eventually(lambda: len(users.read([viewer])[0].following) == len(authors))
    assert expected.items() <= shown(client, viewer, size=200).items()
    assert (feed := client.feed(viewer)) is not None
    assert feed.user_id == viewer


@pytest.mark.parametrize("cut", ["block", "mute", "blocked by the author"])
def test_an_author_who_is_blocked_or_muted_or_blocks_is_not_shown(client: Client, users: UserStates, cut: str) -> None:
    viewer, author, other = new_id(), new_id(), new_id()
    hidden, control = post(author), post(other)
    client.publish([hidden, control])
    assert eventually(lambda: len(first_feed(client, author, other)) >= 2)
    by, of = (author, viewer) if cut == "blocked by the author" else (viewer, author)
    client.publish({"type": cut.split()[0].removesuffix("ed"), "user_id": by, "target_id": of, "at": now()})
    client.publish([follow(viewer, author), follow(viewer, other)])

    def is_written() -> bool:
        (state,) = users.read([str(viewer)])
        cuts = (*state.blocks, *state.mutes, *state.blocked_by)
        return {author, other} <= set(state.following.tolist()) and author in cuts

    assert eventually(is_written)
    feed = shown(client, viewer)
    assert str(control["post_id"]) in feed
    assert str(author) not in feed.values()


@pytest.mark.parametrize("change", ["deleted", "labeled"])
def test_a_post_is_not_shown_after_it_is_deleted_or_labelled_unsafe(client: Client, change: str) -> None:
    author = new_id()
    hidden, control = post(author), post(author)
    both = {str(hidden["post_id"]), str(control["post_id"])}
    client.publish([hidden, control])
    assert eventually(lambda: both <= first_feed(client, author).keys())
    fields = {"post_id": hidden["post_id"], "author_id": author, "at": now(), "label": "spam"}
    client.publish({"type": f"post_{change}"} | fields)
    assert eventually(lambda: both & first_feed(client, author).keys() == {str(control["post_id"])})


def test_seen_posts_posts_with_muted_words_and_own_posts_are_not_shown(client: Client, users: UserStates) -> None:
    viewer, author = new_id(), new_id()
    seen, muted, own = post(author), post(author, "nothing but Football Scores today"), post(viewer)
    fresh = [post(author) for _ in range(3)]  # with fewer new posts, the seen one would come back
    posts = {str(each["post_id"]) for each in (seen, muted, own, *fresh)}
    client.publish([seen, muted, own, *fresh])
    assert eventually(lambda: posts <= first_feed(client, author, viewer).keys())
    client.publish(
        [
            follow(viewer, author),
            {"type": "impression", "user_id": viewer, "post_id": seen["post_id"], "author_id": author, "at": now()},
            {"type": "mute_keyword", "user_id": viewer, "keyword": "football scores", "at": now()},
        ]
    )

    def is_written() -> bool:
        (state,) = users.read([str(viewer)])
        return bool(len(state.seen) and state.keywords and len(state.following))

    assert eventually(is_written)
    assert posts & shown(client, viewer).keys() == {str(each["post_id"]) for each in fresh}


def test_muted_keywords_are_compared_with_texts_as_readers_see_them(client: Client, users: UserStates) -> None:
    viewer, author, at = new_id(), new_id(), now()
    hidden = [
        "win at the ca\u200bsino",
        "\u3316" * 11 + " casino",
        "so funny 😂",
        "İstanbul at night",
        "Bob's boat",
        "sad:(",
    ]
    shown_texts = ["j'ai faim", "3 cats", "note: (see this)"]
    posts = {text: post(author, text) for text in (*hidden, *shown_texts)}
    client.publish(posts.values())
    ids = {text: str(each["post_id"]) for text, each in posts.items()}
    assert eventually(lambda: {*ids.values()} <= first_feed(client, author).keys())
    keywords = ["casino", "😂", "istanbul", "Bob", ":(", "AI", "<3", "Cafe\u0301"]
    muted = [{"type": "mute_keyword", "user_id": viewer, "keyword": keyword, "at": at} for keyword in keywords]
    client.publish([follow(viewer, author), *muted])
    client.publish({"type": "unmute_keyword", "user_id": viewer, "keyword": "Café", "at": at + 1})

    def is_written() -> bool:
        (state,) = users.read([str(viewer)])
        return len(state.keywords) == len(keywords) - 1 and bool(len(state.following))

    assert eventually(is_written)
    assert {*ids.values()} & shown(client, viewer, size=50).keys() == {ids[text] for text in shown_texts}


def test_a_recently_served_post_is_not_served_again_while_there_are_new_ones(client: Client) -> None:
    viewer, author = new_id(), new_id()
    client.publish([follow(viewer, author), *(post(author) for _ in range(8))])
    assert eventually(lambda: len(first_feed(client, author)) >= 8)
    first = shown(client, viewer, size=3)
    assert len(first) == 3
    assert not first.keys() & shown(client, viewer, size=200).keys()


def test_a_reader_who_has_seen_everything_gets_it_again_marked_and_oldest_first(client: Client) -> None:
    viewer, author = new_id(), new_id()
    client.publish([follow(viewer, author), *(post(author) for _ in range(4))])
    options: dict[str, Any] = {"in_network_only": True, "size": 2}
    assert eventually(lambda: len(first_feed(client, author)) >= 4)
    feeds = [client.wait(viewer, client.request_feed(viewer, **options), LONG_S) for _ in range(5)]
    assert [len(feed.items) for feed in feeds] == [2] * 5
    assert [item.repeat for feed in feeds for item in feed.items] == [None] * 4 + ["served"] * 6
    pairs = [{item.post_id for item in feed.items} for feed in feeds]
    assert pairs[0] == pairs[2] == pairs[4] != pairs[1] == pairs[3]
    impressions = [
        {"type": "impression", "user_id": viewer, "post_id": int(post_id), "author_id": author, "at": now() + place}
        for place, post_id in enumerate(item.post_id for feed in feeds[:2] for item in feed.items)
    ]
    client.publish_and_wait(impressions, timeout_s=LONG_S)
    feed = client.wait(viewer, client.request_feed(viewer, **options), LONG_S)
    assert [item.repeat for item in feed.items] == ["seen"] * 2


def test_an_empty_answer_says_why_and_leaves_the_last_feed(client: Client) -> None:
    viewer, author = new_id(), new_id()
    client.publish_and_wait([follow(viewer, author), post(author)], timeout_s=LONG_S)
    last = client.wait(viewer, client.request_feed(viewer, in_network_only=True), LONG_S)
    assert len(last.items) == 1
    client.publish_and_wait({"type": "block", "user_id": viewer, "target_id": author, "at": now()}, timeout_s=LONG_S)
    feed = client.wait(viewer, client.request_feed(viewer, in_network_only=True, explain=True), LONG_S)
    assert (feed.status, feed.items) == ("empty", [])
    assert "author_socialgraph_filter (1)" in feed.degradations[-1]
    assert client.feed(viewer) == last
    explanation = client.explain(viewer)
    assert explanation is not None
    assert (explanation.request_id, explanation.left_out) == (feed.request_id, {"served": 1, "seen": 0})


def test_an_unknown_viewer_gets_popular_and_fresh_posts(client: Client) -> None:
    viewer, author, fan = new_id(), new_id(), new_id()
    posted = post(author)
    liked = {"type": "engagement", "action": "favorite", "user_id": fan, "author_id": author, "at": now()}
    client.publish([posted, liked | {"post_id": posted["post_id"]}])
    assert eventually(lambda: shown(client, viewer))
    assert (feed := client.feed(viewer)) is not None
    assert feed.status in ("ok", "degraded")


def test_the_scores_of_an_explanation_add_up(client: Client) -> None:
    viewer, author = new_id(), new_id()
    client.publish([follow(viewer, author), *(post(author) for _ in range(3))])
    assert eventually(lambda: str(author) in shown(client, viewer, explain=True).values())
    feed, explanation = client.feed(viewer), client.explain(viewer)
    assert feed is not None
    assert explanation is not None
    assert explanation.request_id == feed.request_id
    assert [item.post_id for item in explanation.items] == [item.post_id for item in feed.items]
    for item in explanation.items:
        assert len(item.predictions) == 19
        assert sum(item.terms.values()) == pytest.approx(item.combined)
        assert item.combined + item.offset == pytest.approx(item.weighted)
        multiplied = item.author_diversity * item.out_of_network * item.dpp
        assert (item.weighted + item.boost) * multiplied == pytest.approx(item.score)
    entered, left = explanation.funnel[0].entered, explanation.funnel[-1].left
    assert (entered, left) == (0, len(feed.items))


def test_pages_show_every_post_once_and_end_with_an_empty_page(client: Client) -> None:
    viewer, author = new_id(), new_id()
    own = [post(author) for _ in range(12)]
    posts = {str(each["post_id"]) for each in own}
    client.publish([follow(viewer, author), *own])
    assert eventually(lambda: posts <= first_feed(client, author).keys())
    page = client.wait(viewer, client.request_feed(viewer, size=5, in_network_only=True), timeout_s=LONG_S)
    pages = [page]
    while page.items:
        page = client.next_page(page, timeout_s=LONG_S, size=5, in_network_only=True)
        pages.append(page)
    shown_posts = [item.post_id for each in pages for item in each.items]
    assert sorted(shown_posts) == sorted(posts)
    assert page.status == "empty"


def test_asyncio_clients_wait_concurrently_and_refresh_old_feeds(stack: Stack, settings: Settings) -> None:
    viewers = [new_id() for _ in range(40)]

    async def read() -> None:
        async with AsyncClient(settings) as client:
            requests = [await client.request_feed(viewer) for viewer in viewers]
            waits = [client.wait(viewer, request, LONG_S) for viewer, request in zip(viewers, requests, strict=True)]
            feeds = await asyncio.gather(*waits)
            assert [feed.user_id for feed in feeds] == [str(viewer) for viewer in viewers]
            assert [request in feed.answers for request, feed in zip(requests, feeds, strict=True)] == [True] * 40
            assert await client.fresh(viewers[0], max_age_ms=600_000) == (feeds[0], False)
            newer = await client.fresh(viewers[0], max_age_ms=-1, timeout_s=LONG_S)
            assert not newer.is_stale
            assert newer.feed.at > feeds[0].at

    asyncio.run(read())


def test_a_request_past_its_deadline_expires_for_its_waiter_and_the_feed_stays(client: Client) -> None:
    viewer, author = new_id(), new_id()
    client.publish([follow(viewer, author), post(author)])
    assert eventually(lambda: shown(client, viewer))
    before = client.feed(viewer)
    late = client.request_feed(viewer, at=now() - 1_000, deadline_ms=1, size=7)
    with pytest.raises(NoFeed) as error:
        client.wait(viewer, late, timeout_s=LONG_S)
    assert error.value.status == "expired"
    assert client.feed(viewer) == before


MALFORMED = {
    "posts": b'{"type":"post_created","post_id":-3,"author_id":1,"at":1}',
    "engagements": b'{"type":"engagement","user_id":1,"post_id":1,"author_id":1,"action":"like","at":1}',
    "social-graph": b"not json at all \xff",
    "feed-requests": b'{"type":"feed_request","request_id":"r","user_id":1,"at":1,"size":100000}',
}


def dead_letters(settings: Settings) -> list[DeadLetter]:
    return [unpack_dead_letter(m.value() or b"") for batch in scan(settings, ["dead-letters"]) for m in batch]


@pytest.mark.parametrize("topic", MALFORMED)
def test_a_malformed_message_becomes_one_dead_letter(client: Client, settings: Settings, topic: str) -> None:
    marker = uuid.uuid4().hex.encode()
    raw = MALFORMED[topic]
    client.publish_raw(topic, marker, raw)
    client.flush()

    def found() -> list[DeadLetter]:
        return [letter for letter in dead_letters(settings) if letter.key == marker]

    (letter,) = eventually(found)
    assert (letter.topic, letter.value) == (topic, raw)
    assert letter.reason
    assert shown(client, new_id()) is not None  # the system still answers


def test_requests_of_apps_whose_clocks_differ_are_all_answered_and_the_last_feed_stays(client: Client) -> None:
    viewer = new_id()
    at = now()
    requests = [client.request_feed(viewer, at=at - age, size=3 + age % 7) for age in (-60_000, 2_000, 1_000)]
    answered: dict[str, Feed] = {}
    for request in requests:
        answered[request] = client.wait(viewer, request, timeout_s=LONG_S)
    assert [answer.request_id for answer in answered.values()] == requests
    assert client.feed(viewer) == answered[requests[-1]]


@pytest.mark.parametrize(("megabytes", "kept"), [(5, KEPT_VALUE_BYTES), (110, None)])
def test_a_few_compressed_bytes_that_become_megabytes_are_one_dead_letter_and_stop_nothing(
    client: Client, settings: Settings, stack: Stack, megabytes: int, kept: int | None
) -> None:
    bomb, places = b'{"type":"' + b"x" * (megabytes * 1_000_000) + b'"}', set[tuple[str, int, int]]()
    producer = Producer(
        {"bootstrap.servers": settings.kafka, "compression.type": "zstd", "message.max.bytes": 1_000_000_000}
    )

    def delivered(error: KafkaError | None, message: Message) -> None:
        assert error is None
        places.add((message.topic() or "", message.partition() or 0, message.offset() or 0))

    for topic in INPUTS:
        producer.produce(topic, bomb, on_delivery=delivered)
        assert producer.flush(LONG_S) == 0

    def letters() -> dict[tuple[str, int, int], DeadLetter]:
        found = [
            unpack_dead_letter(each.value() or b"") for batch in scan(settings, ["dead-letters"]) for each in batch
        ]
        return {place: each for each in found if (place := (each.topic, each.partition, each.offset)) in places}

    assert eventually(lambda: letters().keys() == places)
    assert {len(each.value or b"") for each in letters().values()} == {kept or 0}
    if kept:
        assert {each.value_bytes for each in letters().values()} == {len(bomb)}
    author = new_id()
    posted = post(author)
    client.publish(posted)
    assert eventually(lambda: str(posted["post_id"]) in first_feed(client, author))
    stack.check()
