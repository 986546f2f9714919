"""The state of a user: what they did, whom they follow, block and mute, what they saw and were served.

Stored as entries (`user_entries`), a compacted base per kind and a tail per appended batch; `decode` gives what a
request needs of it, `compact` joins tails into bases. Both are functions of the set of entries alone: order,
duplicates and compactions in between make no difference, so that a replayed log leads to the same state.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray

from thunder_ingest import history
from thunder_ingest.history import POSITION
from thunder_ingest.user_entries import (
    EDGE,
    EDGE_KINDS,
    HISTORY,
    KINDS,
    VERSION,
    VIEW,
    UserUpdate,
    encode,
    entries_of,
    keyword_entries,
    keyword_entry,
    updates_of,
)

__all__ = [
    "HISTORY",
    "KINDS",
    "POSITION",
    "VERSION",
    "StateLimits",
    "UserState",
    "UserUpdate",
    "compact",
    "decode",
    "encode",
    "updates_of",
]

TAIL: Final = b"+"
"""Between a kind and the name of a tail in a field's name."""


@dataclass(frozen=True, slots=True)
class StateLimits:
    """How much of a user is kept: positions of history, posts seen and served, edges and keywords that were undone."""

    positions: int = 1024
    seen: int = 8192
    served: int = 500
    undone: int = 4096


_LIMITS: Final = StateLimits()


@dataclass(slots=True, eq=False)
class UserState:
    """What is known about one user when a feed is made."""

    is_known: bool  # anything but what was served
    positions: NDArray[Any]  # [<= 1024] of POSITION, oldest first
    following: Int64[np.ndarray, " f"]  # sorted, as all edges
    blocks: Int64[np.ndarray, " b"]
    blocked_by: Int64[np.ndarray, " c"]
    mutes: Int64[np.ndarray, " m"]
    subscriptions: Int64[np.ndarray, " s"]
    keywords: tuple[str, ...]  # sorted
    seen: Int64[np.ndarray, " n"]  # the newest 8,192 posts, sorted by id
    served_ids: Int64[np.ndarray, " r"]  # the newest 500, oldest first
    served_at: Int64[np.ndarray, " r"]  # epoch ms

    @classmethod
    def empty(cls) -> "UserState":
        """The state of a user about whom nothing is known."""
        return decode({})


def decode(fields: Mapping[bytes, bytes], limits: StateLimits = _LIMITS) -> UserState:
    """The state in the fields of a user's hash: bases called like their kind, tails `kind+name`.

    Fields of other names are passed over, so that a newer program may add a kind.

    Raises:
        ValueError: for a value of an unknown version or a broken length.

    """
    entries = {kind: b"".join(values) for kind, values in _by_kind(fields).items()}
    edges = {kind: _targets(entries.get(kind, b"")) for kind in EDGE_KINDS}
    served = _newest_views(entries.get("served", b""), limits.served)
    return UserState(
        is_known=any(kind != "served" for kind in entries),
        positions=history.positions(np.frombuffer(entries.get("history", b""), HISTORY), limits.positions),
        keywords=tuple(sorted(word for word, (_, on) in _keywords(entries.get("keywords", b"")).items() if on)),
        seen=np.sort(_newest_views(entries.get("seen", b""), limits.seen)["post_id"]),
        served_ids=served["post_id"].copy(),
        served_at=served["at"].copy(),
        **edges,
    )


def compact(fields: Mapping[bytes, bytes], limits: StateLimits = _LIMITS) -> tuple[dict[bytes, bytes], list[bytes]]:
    """Join the tails of each kind into its base.

    What was undone is remembered, so that an event that comes late still loses against it.

    Returns:
        the bases to write, and the names of the tails that they replace.

    Raises:
        ValueError: like `decode`.

    """
    tails = [name for name in fields if TAIL in name and _kind(name) is not None]
    grown = {_kind(name) for name in tails}
    bases = {
        kind.encode(): encode(kind, [_COMPACTED[kind](b"".join(values), limits)])
        for kind, values in _by_kind(fields).items()
        if kind in grown
    }
    return bases, tails


def _kind(field: bytes) -> str | None:
    kind = field.partition(TAIL)[0].decode(errors="replace")
    return kind if kind in KINDS else None


def _by_kind(fields: Mapping[bytes, bytes]) -> dict[str, list[bytes]]:
    grouped: dict[str, list[bytes]] = {}
    for name, value in fields.items():
        kind = _kind(name)
        if kind is not None:
            grouped.setdefault(kind, []).append(entries_of(value))
    return grouped


# --- edges: the last writer by time wins, at one time the doing ------------------------------------------------------


def _edges(entries: bytes) -> NDArray[Any]:
    """The edge of each target that counts, sorted by target."""
    edges = np.frombuffer(entries, EDGE)
    edges = edges[np.lexsort((1 - edges["undo"].astype(np.int8), edges["at"], edges["target_id"]))]
    return np.asarray(edges[history.is_last(edges["target_id"])])


def _targets(entries: bytes) -> Int64[np.ndarray, " n"]:
    edges = _edges(entries)
    return np.asarray(edges["target_id"][edges["undo"] == 0], np.int64)


def _compacted_edges(entries: bytes, limits: StateLimits) -> bytes:
    edges = _edges(entries)
    undone = np.flatnonzero(edges["undo"])
    forgotten = undone[np.lexsort((edges["target_id"][undone], edges["at"][undone]))][: -limits.undone]
    return np.delete(edges, forgotten).tobytes()


# --- keywords: like edges, but of text -------------------------------------------------------------------------------


def _keywords(entries: bytes) -> dict[str, tuple[int, bool]]:
    """The time and whether it is muted, for each keyword; at one time the muting wins."""
    latest: dict[str, tuple[int, bool]] = {}
    for at, undo, keyword in keyword_entries(entries):
        latest[keyword] = max(latest.get(keyword, (0, False)), (at, not undo))
    return latest


def _compacted_keywords(entries: bytes, limits: StateLimits) -> bytes:
    latest = sorted((at, keyword, on) for keyword, (at, on) in _keywords(entries).items())
    undone = [item for item in latest if not item[2]][-limits.undone :]
    kept = [item for item in latest if item[2]] + undone
    return b"".join(keyword_entry(at, keyword, not on) for at, keyword, on in kept)


# --- views: the newest of each post, and of these the newest ---------------------------------------------------------


def _newest_views(entries: bytes, limit: int) -> NDArray[Any]:
    """The last time of each post, of the newest posts, oldest first."""
    views = np.frombuffer(entries, VIEW)
    views = views[np.lexsort((views["at"], views["post_id"]))]
    views = views[history.is_last(views["post_id"])]
    return np.asarray(views[np.lexsort((views["post_id"], views["at"]))[-limit:]])


_COMPACTED: Final[dict[str, Callable[[bytes, StateLimits], bytes]]] = {
    "history": lambda entries, limits: history.compacted(np.frombuffer(entries, HISTORY), limits.positions).tobytes(),
    **dict.fromkeys(EDGE_KINDS, _compacted_edges),
    "keywords": _compacted_keywords,
    "seen": lambda entries, limits: _newest_views(entries, limits.seen).tobytes(),
    "served": lambda entries, limits: _newest_views(entries, limits.served).tobytes(),
}
