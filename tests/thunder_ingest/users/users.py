"""Events about users, and their states, for tests."""

from dataclasses import fields
from typing import Any

import numpy as np

from thunder_ingest.events import (
    Block,
    Engagement,
    EngagementEvent,
    Follow,
    GraphEvent,
    Impression,
    Mute,
    MuteKeyword,
    Subscribe,
    Unblock,
    Unfollow,
    Unmute,
    UnmuteKeyword,
    Unsubscribe,
)
from thunder_ingest.users.compact_form import encode
from thunder_ingest.users.entries import updates_of
from thunder_ingest.users.seen_filter import FilterSize
from thunder_ingest.users.state import StateLimits, UserState, compact

T0 = 1_700_000_000_000
DO = {Follow: "following", Block: "blocks", Mute: "mutes", Subscribe: "subscriptions"}
UNDO = {Unfollow: "following", Unblock: "blocks", Unmute: "mutes", Unsubscribe: "subscriptions"}
SMALL = StateLimits(
    positions=3,
    seen=3,
    seen_before=FilterSize(posts=4, generations=2, error=1e-6),
    following=3,
    safety=3,
    blocked_by=2,
    keywords=3,
    served=2,
    undone=2,
)
Fields = dict[bytes, bytes]


def tails_of(events: list[EngagementEvent | GraphEvent], user: str = "1", each: int = 1) -> Fields:
    """The fields of a user's hash after some events, a tail for every few of them."""
    tails: dict[bytes, list[bytes]] = {}
    for number, event in enumerate(events):
        for update in updates_of(event):
            if update.user == user:
                tails.setdefault(f"{update.kind}+0-{number // each}".encode(), []).append(update.entry)
    return {name: encode(name.partition(b"+")[0].decode(), entries) for name, entries in tails.items()}


def compacted(stored: Fields, limits: StateLimits | None = None) -> Fields:
    bases, tails, _ = compact(stored, limits or StateLimits())
    return {name: value for name, value in (stored | bases).items() if name not in tails}


def plain(state: UserState) -> dict[str, Any]:
    """A state as lists, to compare."""
    values = {field.name: getattr(state, field.name) for field in fields(state)}
    values["seen_before"] = state.seen_before.to_bytes()
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}


def edge(type_: Any, at: int, user: int | str = 1, target: int | str = 2) -> Any:
    return type_(user_id=user, target_id=target, at=T0 + at)


def favorite(at: int, post_id: int = 10, **fields: Any) -> Engagement:
    return Engagement(user_id=1, post_id=post_id, author_id=7, action="favorite", at=T0 + at, **fields)


def impression(at: int, post_id: int = 10, **fields: Any) -> Impression:
    return Impression(user_id=1, post_id=post_id, author_id=7, at=T0 + at, **fields)


def mute(at: int, keyword: str) -> MuteKeyword:
    return MuteKeyword(user_id=1, keyword=keyword, at=T0 + at)


def unmute(at: int, keyword: str) -> UnmuteKeyword:
    return UnmuteKeyword(user_id=1, keyword=keyword, at=T0 + at)
