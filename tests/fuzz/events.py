"""Valid events about few posts and users, so that the state of a system that reads a million of them is bounded."""

import random
from typing import Any, Final

from thunder_ingest.events import ACTIONS

POSTS: Final = 3_000
USERS: Final = 600
VIEWERS: Final = 50
WORDS: Final = (
    "sail",
    "race",
    "İstanbul",
    "j'ai",
    "café",
    "😂",
    "🇩🇪",
    ":(",
    "<3",
    "東京",
    "हिन्दी",
    "\u200b",
    "C++",
    "#tag",
)
TOPICS: Final = ("posts", "engagements", "social-graph", "feed-requests")
_SHARES: Final = (0.4, 0.3, 0.25, 0.05)
_EDGES: Final = ("follow", "unfollow", "block", "unblock", "mute", "unmute", "subscribe", "unsubscribe")


def drawn(draw: random.Random, number: int, now_ms: int) -> tuple[str, dict[str, Any]]:
    """A topic, and an event of it; `number` makes the ids of requests unique."""
    (topic,) = draw.choices(TOPICS, _SHARES)
    at = now_ms - draw.randrange(60_000)
    match topic:
        case "posts":
            return topic, _post_event(draw) | {"at": at}
        case "engagements":
            return topic, _engagement(draw) | {"at": at}
        case "social-graph":
            return topic, _graph_event(draw) | {"at": at}
    request = {"type": "feed_request", "request_id": f"fuzz-{number}", "user_id": draw.randrange(1, VIEWERS), "at": at}
    return topic, request | {"size": 5, "langs": ["en"], "explain": draw.random() < 0.1, "deadline_ms": 3_600_000}


def text(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randrange(12)))


def _post(draw: random.Random) -> dict[str, Any]:
    number = draw.randrange(1, POSTS)
    author = number % USERS + 1
    return {
        "post_id": number if number % 3 else f"at://{number}",
        "author_id": author if author % 5 else f"did:{author}",
    }


def _post_event(draw: random.Random) -> dict[str, Any]:
    post = _post(draw)
    match draw.randrange(10):
        case 0:
            return {"type": "post_deleted"} | post
        case 1:
            return {"type": "post_labeled", "label": draw.choice(("spam", "Adult ", "x")), "removed": False} | post
        case 2:
            source = draw.choice(("repost", "quote"))
            return {"type": "post_created", "kind": source, "source_post_id": _post(draw)["post_id"]} | post
        case 3:
            return {"type": "post_created", "kind": "reply", "in_reply_to_post_id": _post(draw)["post_id"]} | post
    return {"type": "post_created", "text": text(draw), "lang": draw.choice(("en", "und", "")), "photos": 0} | post


def _engagement(draw: random.Random) -> dict[str, Any]:
    event = {"user_id": draw.randrange(1, USERS)} | _post(draw)
    if draw.random() < 0.5:
        return {"type": "impression", "position": draw.randrange(30), "surface": "home"} | event
    action = draw.choice(ACTIONS)
    return {
        "type": "engagement",
        "action": action,
        "dwell_ms": draw.randrange(9_000),
        "undo": draw.random() < 0.1,
    } | event


def _graph_event(draw: random.Random) -> dict[str, Any]:
    user = {"user_id": draw.randrange(1, USERS)}
    if draw.random() < 0.2:
        return {"type": draw.choice(("mute_keyword", "unmute_keyword")), "keyword": text(draw) or "x"} | user
    if draw.random() < 0.1:
        return {"type": "account", "status": draw.choice(("active", "deactivated", "suspended", "deleted"))} | user
    return {"type": draw.choice(_EDGES), "target_id": draw.randrange(USERS, 2 * USERS)} | user
