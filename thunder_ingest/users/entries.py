"""Entries of user state: small fixed-width records that events append.

The state of a user is a set of entries per kind. The reader decides which entries count, so entries may arrive in any
order and any number of times.
"""

import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final, NamedTuple, TypeAlias

import numpy as np

from thunder_ingest.events import (
    ACTION_INDEX,
    IMPRESSION,
    Account,
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
    surface_code,
)
from thunder_ingest.events.ids import id64, published_form

HISTORY: Final = np.dtype(
    [
        ("at", "<i8"),
        ("post_id", "<i8"),
        ("author_id", "<i8"),
        ("dwell_ms", "<u4"),
        ("action", "u1"),  # ACTION_INDEX, or IMPRESSION
        ("undo", "u1"),
        ("surface", "u1"),
    ]
)
EDGE: Final = np.dtype([("at", "<i8"), ("target_id", "<i8"), ("undo", "u1")])
VIEW: Final = np.dtype([("at", "<i8"), ("post_id", "<i8")])
"""A seen or served post."""

EDGE_KINDS: Final = ("following", "blocks", "blocked_by", "mutes", "subscriptions")
KINDS: Final = ("history", *EDGE_KINDS, "keywords", "seen", "seen_before", "served")
"""A post that leaves the history goes to `seen`, later to `seen_before`."""

_pack_history = struct.Struct("<qqqIBBB").pack
_EDGE = struct.Struct("<qqB")
_pack_view = struct.Struct("<qq").pack
_KEYWORD = struct.Struct("<qBH")  # and as many bytes of UTF-8

# kind of the edge at its user, kind at its target if stored there, and True for an undo
_EDGES: Final[dict[type, tuple[str, str | None, bool]]] = {
    Follow: ("following", None, False),
    Unfollow: ("following", None, True),
    Block: ("blocks", "blocked_by", False),
    Unblock: ("blocks", "blocked_by", True),
    Mute: ("mutes", None, False),
    Unmute: ("mutes", None, True),
    Subscribe: ("subscriptions", None, False),
    Unsubscribe: ("subscriptions", None, True),
}


class UserUpdate(NamedTuple):
    """An entry to append: the user (published form of the id), one of KINDS, and the bytes."""

    user: str
    kind: str
    entry: bytes


UserEntries: TypeAlias = defaultdict[str, defaultdict[str, list[bytes]]]
"""Entries to append, by user and kind."""
_kinds: Final[Callable[[], defaultdict[str, list[bytes]]]] = partial(defaultdict, list)


def by_user(updates: Iterable[UserUpdate]) -> UserEntries:
    """Group updates by user and kind; they may come in any order."""
    entries: UserEntries = defaultdict(_kinds)
    for user, kind, entry in updates:
        entries[user][kind].append(entry)
    return entries


def updates_of(event: EngagementEvent | GraphEvent | Account) -> list[UserUpdate]:
    """The entries that an event adds; a block adds one to both users."""
    if isinstance(event, Impression | Engagement):
        entries = entries_by_user([event])
        return [UserUpdate(user, kind, each) for user, kinds in entries.items() for kind, (each,) in kinds.items()]
    if isinstance(event, Account):
        return []  # its status is in the topic `accounts`
    user = published_form(event.user_id)
    if isinstance(event, MuteKeyword | UnmuteKeyword):
        undo = isinstance(event, UnmuteKeyword)
        return [UserUpdate(user, "keywords", keyword_entry(event.at, event.keyword, undo))]
    kind, kind_of_target, undo = _EDGES[type(event)]
    updates = [UserUpdate(user, kind, _EDGE.pack(event.at, id64(event.target_id), undo))]
    if kind_of_target is not None:
        entry = _EDGE.pack(event.at, id64(event.user_id), undo)
        updates.append(UserUpdate(published_form(event.target_id), kind_of_target, entry))
    return updates


def entries_by_user(events: Iterable[EngagementEvent | GraphEvent | Account]) -> UserEntries:
    """The entries of `updates_of` for each event, by user and kind: the hot path of the engagements flow."""
    entries: UserEntries = defaultdict(_kinds)
    for event in events:
        action, dwell_ms, undo = IMPRESSION, 0, False
        if type(event) is Engagement:
            action, dwell_ms, undo = ACTION_INDEX[event.action], event.dwell_ms or 0, event.undo is True
        elif type(event) is not Impression:
            for user, kind, entry in updates_of(event):
                entries[user][kind].append(entry)
            continue
        user_id, post_id, author_id = event.user_id, event.post_id, event.author_id
        if type(post_id) is not int:
            post_id = id64(post_id)
        if type(author_id) is not int:
            author_id = id64(author_id)
        surface = 0 if event.surface is None else surface_code(event.surface)
        kinds = entries[str(user_id) if type(user_id) is int else published_form(user_id)]
        kinds["history"].append(_pack_history(event.at, post_id, author_id, dwell_ms, action, undo, surface))
    return entries


def view_entry(at: int, post_id: int) -> bytes:
    """The entry of a seen or served post."""
    return _pack_view(at, post_id)


def keyword_entry(at: int, keyword: str, undo: bool) -> bytes:
    """The entry of a muted keyword, or of its unmuting."""
    encoded = keyword.encode()
    return _KEYWORD.pack(at, undo, len(encoded)) + encoded


def keyword_entries(joined: bytes) -> Iterator[tuple[int, bool, str]]:
    """Time, undo flag and keyword of each entry; raises ValueError for a truncated entry."""
    offset = 0
    while offset < len(joined):
        start = offset + _KEYWORD.size
        if start > len(joined):
            raise ValueError("a keyword entry is truncated")
        at, undo, length = _KEYWORD.unpack_from(joined, offset)
        offset = start + length
        if offset > len(joined):
            raise ValueError("a keyword entry is truncated")
        yield at, bool(undo), joined[start:offset].decode()
