"""Safety rules, end to end: each case is a small world with a viewer, all on one running stack.

The events of all cases are published in two rounds: the world, and the events that change it. Then each viewer requests
one feed. A case lists the posts that the feed must hide, and those that it must show.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import pytest

from feed_worker.client import Client
from infra.ports.clock import now_ms
from tests.e2e.conftest import LONG_S

Event = dict[str, Any]
_ids: Final = itertools.count(1_000_001)


def new_id() -> int:
    return next(_ids)


class Case(NamedTuple):
    """A viewer, the events of the two rounds, and the expected feed."""

    viewer: int
    world: list[Event]
    later: list[Event]
    hidden: list[int]
    shown: list[int]


def event(type_: str, *, ahead_ms: int = 0, **fields: Any) -> Event:
    return {"type": type_, "at": now_ms() + ahead_ms} | fields


def post(post_id: int, author_id: int, text: str = "a plain text", **fields: Any) -> Event:
    return event("post_created", post_id=post_id, author_id=author_id, text=text, **fields)


def follow(viewer: int, *targets: int) -> list[Event]:
    return [event("follow", user_id=viewer, target_id=target) for target in targets]


def referring(later: Callable[[int, int, int], list[Event]], **original: Any) -> Case:
    """Reposts of quotes and of reposts of an original; `later` gets the viewer, the original and its author."""
    viewer, follow_1, follow_2, blocked, other = (new_id() for _ in range(5))
    a, quote, repost_of_quote, repost, repost_of_repost, plain = (new_id() for _ in range(6))
    world = [
        *follow(viewer, follow_1, follow_2),
        post(a, blocked, **original),
        post(quote, other, kind="quote", source_post_id=a, source_author_id=blocked),
        post(repost_of_quote, follow_1, kind="repost", source_post_id=quote, source_author_id=other),
        post(repost, follow_2, kind="repost", source_post_id=a, source_author_id=blocked),
        post(repost_of_repost, follow_1, kind="repost", source_post_id=repost, source_author_id=follow_2),
        post(plain, follow_1),
    ]
    hidden = [a, quote, repost_of_quote, repost, repost_of_repost]
    return Case(viewer, world, later(viewer, a, blocked), hidden, [plain])


def of_author(later: Callable[[int, int, int], list[Event]], hides: bool = True, **fields: Any) -> Case:
    """A post of a followed author beside that of another one; `later` gets the viewer, the post and its author."""
    viewer, author, other, subject, plain = (new_id() for _ in range(5))
    world = [*follow(viewer, author, other), post(subject, author, **fields), post(plain, other)]
    hidden, shown = ([subject], [plain]) if hides else ([], [subject, plain])
    return Case(viewer, world, later(viewer, subject, author), hidden, shown)


def reply_to_blocked(block: Callable[[int, int], Event]) -> Case:
    viewer, answered, author, parent, reply, plain = (new_id() for _ in range(6))
    fields: Event = {"in_reply_to_post_id": parent, "in_reply_to_author_id": answered, "conversation_id": parent}
    world = [*follow(viewer, author), post(parent, answered), post(reply, author, kind="reply", **fields)]
    return Case(viewer, [*world, post(plain, author)], [block(viewer, answered)], [parent, reply], [plain])


def deletion(post_id: int, author: int, ahead_ms: int = 0) -> Event:
    return event("post_deleted", post_id=post_id, author_id=author, ahead_ms=ahead_ms)


def block(viewer: int, target: int, ahead_ms: int = 0) -> Event:
    return event("block", user_id=viewer, target_id=target, ahead_ms=ahead_ms)


def label(post_id: int, name: str, **author: int) -> Event:
    return event("post_labeled", post_id=post_id, label=name, **author)


def mute(viewer: int, keyword: str) -> Event:
    return event("mute_keyword", user_id=viewer, keyword=keyword)


def account(author: int, *statuses: str) -> list[Event]:
    return [event("account", user_id=author, status=status, ahead_ms=at) for at, status in enumerate(statuses)]


def label_before_its_post() -> Case:
    case = of_author(lambda _viewer, _post, _author: [])
    return case._replace(world=[label(case.hidden[0], "gore", author_id=new_id()), *case.world])


def same_time(first: str, second: str, hides: bool) -> Case:
    """Two contradicting events of one time; the safer one must win in any order."""

    def both(viewer: int, _post: int, author: int) -> list[Event]:
        at = now_ms()
        return [{"type": kind, "user_id": viewer, "target_id": author, "at": at} for kind in (first, second)]

    return of_author(both, hides)


CASES: Final[dict[str, Callable[[], Case]]] = {
    "S1 blocks follow references": lambda: referring(lambda viewer, _, author: [block(viewer, author)]),
    "S1 blocks of the viewer follow references": lambda: referring(lambda viewer, _, author: [block(author, viewer)]),
    "S1 labels follow references": lambda: referring(lambda _, a, author: [label(a, "gore", author_id=author)]),
    "S1 deletions follow references": lambda: referring(lambda _, a, author: [deletion(a, author)]),
    "S1 subscriptions follow references": lambda: referring(lambda *_: [], subscriber_only=True),
    "S1 keywords follow references": lambda: referring(lambda viewer, *_: [mute(viewer, "regatta")], text="a regatta"),
    "S1 accounts follow references": lambda: referring(lambda _viewer, _, author: account(author, "suspended")),
    "S3 a deletion after a post with a fast clock": lambda: of_author(
        lambda _, post_id, author: [deletion(post_id, author, 5_000)], at=now_ms() + 120_000
    ),
    "S3 a block after an unblock with a fast clock": lambda: of_author(
        lambda viewer, _, author: [
            event("unblock", user_id=viewer, target_id=author, ahead_ms=120_000),
            block(viewer, author, 30_000),
        ]
    ),
    "S4 a reply to a blocked author": lambda: reply_to_blocked(block),
    "S4 a reply to an author who blocks": lambda: reply_to_blocked(lambda viewer, author: block(author, viewer)),
    "S5 invisible characters": lambda: of_author(lambda viewer, *_: [mute(viewer, "casino")], text="a ca\u200bsino"),
    "S6 growth under normalisation": lambda: of_author(
        lambda viewer, *_: [mute(viewer, "casino")], text="\u3316" * 11 + " casino"
    ),
    "S7 a muted emoji": lambda: of_author(lambda viewer, *_: [mute(viewer, "🍕")], text="time for 🍕!"),
    "S8 a short keyword": lambda: of_author(lambda viewer, *_: [mute(viewer, "AI")], hides=False, text="j'ai faim"),
    "S9 Turkish case": lambda: of_author(lambda viewer, *_: [mute(viewer, "istanbul")], text="İstanbul"),
    "S10 one word in two spellings": lambda: of_author(
        lambda viewer, *_: [
            mute(viewer, "Café"),
            event("unmute_keyword", user_id=viewer, keyword="Cafe\u0301", ahead_ms=1),
        ],
        hides=False,
        text="un café",
    ),
    "S11 a label in capitals": lambda: of_author(lambda _, post_id, author: [label(post_id, "Gore", author_id=author)]),
    "S11 a label with a blank": lambda: of_author(
        lambda _, post_id, author: [label(post_id, "spam ", author_id=author)]
    ),
    "S11 a moderator's label": lambda: of_author(lambda _, post_id, __: [label(post_id, "gore", author_id=new_id())]),
    "S11 a label without an author": lambda: of_author(lambda _, post_id, __: [label(post_id, "gore")]),
    "S11 a moderator's deletion": lambda: of_author(lambda _, post_id, __: [deletion(post_id, new_id())]),
    "S11 a label before its post": label_before_its_post,
    "S12 a deactivated account": lambda: of_author(lambda _, __, author: account(author, "deactivated")),
    "S12 a suspended account": lambda: of_author(lambda _, __, author: account(author, "suspended")),
    "S12 a deleted account": lambda: of_author(lambda _, __, author: account(author, "deleted")),
    "S12 an account that came back": lambda: of_author(
        lambda _, __, author: account(author, "suspended", "active"), hides=False
    ),
    "C7 unfollow wins": lambda: same_time("unfollow", "follow", hides=True),
    "C7 block wins": lambda: same_time("block", "unblock", hides=True),
    "C7 mute wins": lambda: same_time("mute", "unmute", hides=True),
}


@pytest.fixture(scope="module")
def feeds(stack: object, settings: Any) -> Iterator[dict[str, tuple[Case, set[str]]]]:
    """For each case its feed's posts."""
    cases = {name: make() for name, make in CASES.items()}
    with Client(settings) as client:
        for events in ([each.world for each in cases.values()], [each.later for each in cases.values()]):
            client.publish_and_wait(list(itertools.chain(*events)), timeout_s=LONG_S)
        requests = {
            name: client.request_feed(case.viewer, size=50, in_network_only=True) for name, case in cases.items()
        }
        yield {
            name: (case, {item.post_id for item in client.wait(case.viewer, requests[name], LONG_S).items})
            for name, case in cases.items()
        }


@pytest.mark.parametrize("name", CASES)
def test_a_feed_hides_and_shows(feeds: dict[str, tuple[Case, set[str]]], name: str) -> None:
    case, items = feeds[name]
    assert not items & set(map(str, case.hidden))
    assert items >= set(map(str, case.shown))
