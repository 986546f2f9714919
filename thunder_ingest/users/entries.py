"""Entries of user state: small fixed-width records that events append.

The state of a user is a set of entries per kind. The reader decides which entries count, so entries may arrive in any
order and any number of times.
"""

import struct
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

import numpy as np

from thunder_ingest.events import (
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
)
from thunder_ingest.events.engagement_columns import EngagementColumns, engagement_columns
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
"""A seen, rejected or served post."""

EDGE_KINDS: Final = ("following", "blocks", "blocked_by", "mutes", "subscriptions")
KINDS: Final = ("history", *EDGE_KINDS, "keywords", "seen", "seen_before", "rejected", "served")
"""A post that leaves the history goes to `seen`, later to `seen_before`, and with a negative action to `rejected`."""

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


UserEntries: TypeAlias = dict[str, dict[str, list[bytes]]]
"""Entries to append, by user and kind: an element has one or several entries end to end."""


def by_user(updates: Iterable[UserUpdate]) -> UserEntries:
    """Group updates by user and kind; they may come in any order."""
    return _with_updates({}, updates)


def _with_updates(entries: UserEntries, updates: Iterable[UserUpdate]) -> UserEntries:
    for user, kind, entry in updates:
        entries.setdefault(user, {}).setdefault(kind, []).append(entry)
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
    """The entries of `updates_of` for each event, by user and kind."""
    return entries_of(engagement_columns(events))


def entries_of(columns: EngagementColumns) -> UserEntries:
    """The entries by user and kind: the hot path of the engagements flow."""
    by_user = np.argsort(columns.user, kind="stable")
    users, history = columns.user[by_user], np.empty(len(by_user), HISTORY)
    for name in HISTORY.names or ():
        history[name] = getattr(columns, name)[by_user]
    begins = np.flatnonzero(np.diff(users, prepend=0))  # no user is 0
    packed, ends = history.tobytes(), (np.append(begins, len(users)) * HISTORY.itemsize).tolist()
    names = [str(user) if user > 0 else columns.string_ids[-1 - user] for user in users[begins].tolist()]
    entries = {name: {"history": [packed[begin:end]]} for name, (begin, end) in zip(names, pairwise(ends), strict=True)}
    return _with_updates(entries, (update for event in columns.others for update in updates_of(event)))


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
