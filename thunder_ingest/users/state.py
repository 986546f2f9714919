"""The state of a user: what they did, whom they follow, block and mute, what they saw and were served.

Stored as entries (`user_entries`), a base per kind and a tail per appended batch, each in either version of the stored
form (`user_form`). `decode` gives what a request needs of them, `join` puts tails end to end, `compact` folds them into
bases. All are functions of the set of entries alone: order, duplicates and compactions in between make no difference,
so that a replayed log leads to the same state. What is bounded forgets the oldest, by event time:
- Follows: above `following` of them the oldest no longer count, until they are followed again. Blocks, mutes and
  subscriptions, without which a feed would show what it must not, are all kept.
- What was undone is remembered for `undone_ms`, counted back from the newest entry of its kind, and `undone` times at
  most. A doing that comes later than that, and is older than its undoing, may stand again.
- Posts seen: a post in the history was seen. What has left the history is known by id while it is among the newest
  `seen`, then by a filter, which also takes some posts for seen that were not (`seen_filter`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray

from thunder_ingest.users import history
from thunder_ingest.users.compact_form import DTYPES, Entries, decode_entries, encode_columns, encode_rows, rows_of
from thunder_ingest.users.entries import EDGE_KINDS, KINDS, VIEW, keyword_entries, keyword_entry
from thunder_ingest.users.seen_filter import FilterSize, SeenFilter

TAIL: Final = b"+"
"""Between a kind and the name of a tail in a field's name."""

JOINED: Final = TAIL + b"joined"
"""Ends the name of tails that were joined; no batch is called so."""

DAY_MS: Final = 86_400_000

_Stored = Mapping[str, Sequence[bytes]]  # base and tails of each kind


@dataclass(frozen=True, slots=True)
class StateLimits:
    """How much of a user is kept. Who compacts and who reads should agree."""

    positions: int = 1_024
    """Of the history."""
    passed_over: bool = True
    """Whether posts that were seen, and no more, are positions of the history."""
    following: int = 10_000
    seen: int = 4_096
    """Posts that have left the history and are known by id."""
    seen_before: FilterSize = FilterSize()  # noqa: RUF009  # immutable
    """Posts seen before those."""
    served: int = 500
    undone: int = 4_096
    """Edges of a kind, or keywords, that were undone."""
    undone_ms: int = 30 * DAY_MS
    """How long undoings are remembered: as long as engagements stay in the log."""


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
    seen: Int64[np.ndarray, " n"]  # sorted
    seen_before: SeenFilter
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
        ValueError: for a value of an unknown version, or one that is broken.

    """
    stored = _by_kind(fields)
    entries = {kind: _entries(kind, stored) for kind in DTYPES}
    served = _newest_views(entries["served"])[-limits.served :]
    return UserState(
        is_known=any(kind != "served" for kind in stored),
        positions=history.positions(entries["history"], limits.positions, limits.passed_over),
        keywords=tuple(sorted(word for word, (_, on) in _keywords(_keyword_rows(stored)).items() if on)),
        seen=_seen(entries["history"], entries["seen"]),
        seen_before=_seen_before(stored),
        served_ids=served["post_id"].copy(),
        served_at=served["at"].copy(),
        **{kind: _standing(kind, _edges(entries[kind]), limits)["target_id"].copy() for kind in EDGE_KINDS},
    )


def compact(fields: Mapping[bytes, bytes], limits: StateLimits = _LIMITS) -> tuple[dict[bytes, bytes], list[bytes]]:
    """Fold the tails of each kind into its base.

    Returns:
        the bases to write, and the names of the tails that they replace.

    Raises:
        ValueError: like `decode`.

    """
    stored, tails = _by_kind(fields), _tails(fields)
    folded: dict[str, Entries] = {
        kind: _compacted_edges(kind, _entries(kind, stored), limits) for kind in EDGE_KINDS if kind in tails
    }
    if "served" in tails:
        folded["served"] = _newest_views(_entries("served", stored))[-limits.served :]
    bases = {}
    if "keywords" in tails:
        bases["keywords"] = encode_rows(_compacted_keywords(_keyword_rows(stored), limits))
    if "history" in tails or "seen" in tails:
        folded["history"], left = history.compacted(_entries("history", stored), limits.positions, limits.passed_over)
        if len(left) or "seen" in tails:
            seen = _newest_views(np.concatenate([_views(left), _entries("seen", stored)]))
            seen = seen[~np.isin(seen["post_id"], _views(folded["history"])["post_id"])]
            folded["seen"], older = seen[-limits.seen :], seen[: -limits.seen]
            if len(older):
                before = _seen_before(stored).with_posts(older["post_id"], limits.seen_before)
                bases["seen_before"] = encode_rows(before.to_bytes())
    bases |= {kind: encode_columns(entries) for kind, entries in folded.items()}
    return {kind.encode(): base for kind, base in bases.items()}, [name for names in tails.values() for name in names]


def join(fields: Mapping[bytes, bytes]) -> tuple[dict[bytes, bytes], list[bytes]]:
    """Put the tails of each kind end to end, in one; returns and raises like `compact`."""
    joined, replaced = {}, list[bytes]()
    for kind, names in _tails(fields).items():
        name = kind.encode() + JOINED
        joined[name] = encode_rows(b"".join([rows_of(kind, fields[each]) for each in names]))
        replaced += [each for each in names if each != name]
    return joined, replaced


def _kind(field: bytes) -> str | None:
    kind = field.partition(TAIL)[0].decode(errors="replace")
    return kind if kind in KINDS else None


def _tails(fields: Mapping[bytes, bytes]) -> dict[str, list[bytes]]:
    grouped: dict[str, list[bytes]] = {}
    for name in fields:
        kind = _kind(name)
        if TAIL in name and kind is not None:
            grouped.setdefault(kind, []).append(name)
    return grouped


def _by_kind(fields: Mapping[bytes, bytes]) -> dict[str, list[bytes]]:
    grouped: dict[str, list[bytes]] = {}
    for name, value in fields.items():
        kind = _kind(name)
        if kind is not None:
            grouped.setdefault(kind, []).append(value)
    return grouped


def _entries(kind: str, stored: _Stored) -> Entries:
    return decode_entries(kind, stored.get(kind, ()))


# --- edges: the last writer by time wins, at one time the doing ------------------------------------------------------


def _edges(entries: Entries) -> Entries:
    """The edge of each target that counts, sorted by target."""
    if (np.diff(entries["target_id"]) > 0).all():  # as a base alone is
        return entries
    edges = entries[np.lexsort((1 - entries["undo"].astype(np.int8), entries["at"], entries["target_id"]))]
    return np.asarray(edges[history.is_last(edges["target_id"])])


def _standing(kind: str, edges: Entries, limits: StateLimits) -> Entries:
    standing = edges[edges["undo"] == 0]
    bounded = kind == "following" and len(standing) > limits.following
    return np.asarray(standing[_newest(standing, limits.following)] if bounded else standing)


def _compacted_edges(kind: str, entries: Entries, limits: StateLimits) -> Entries:
    edges = _edges(entries)
    undone = edges[(edges["undo"] == 1) & (edges["at"] >= edges["at"].max(initial=0) - limits.undone_ms)]
    kept = np.concatenate([_standing(kind, edges, limits), undone[_newest(undone, limits.undone)]])
    return np.asarray(kept[np.argsort(kept["target_id"])])


def _newest(edges: Entries, limit: int) -> Int64[np.ndarray, " n"]:
    """Indexes of the newest edges, ascending."""
    return np.sort(np.lexsort((edges["target_id"], edges["at"]))[-limit:])


# --- keywords: like edges, but of text -------------------------------------------------------------------------------


def _keyword_rows(stored: _Stored) -> bytes:
    return b"".join([rows_of("keywords", value) for value in stored.get("keywords", ())])


def _keywords(rows: bytes) -> dict[str, tuple[int, bool]]:
    """The time and whether it is muted, for each keyword; at one time the muting wins."""
    latest: dict[str, tuple[int, bool]] = {}
    for at, undo, keyword in keyword_entries(rows):
        latest[keyword] = max(latest.get(keyword, (0, False)), (at, not undo))
    return latest


def _compacted_keywords(rows: bytes, limits: StateLimits) -> bytes:
    latest = sorted((at, keyword, on) for keyword, (at, on) in _keywords(rows).items())
    oldest_undone = latest[-1][0] - limits.undone_ms if latest else 0
    undone = [item for item in latest if not item[2] and item[0] >= oldest_undone][-limits.undone :]
    kept = [item for item in latest if item[2]] + undone
    return b"".join(keyword_entry(at, keyword, not on) for at, keyword, on in kept)


# --- views: the newest of each post ----------------------------------------------------------------------------------


def _views(entries: Entries) -> Entries:
    """The entries of a history that saw their posts: all but the undoings."""
    done = entries[entries["undo"] == 0]
    views = np.empty(len(done), VIEW)
    views["at"], views["post_id"] = done["at"], done["post_id"]
    return views


def _newest_views(views: Entries) -> Entries:
    """The last time of each post, oldest first."""
    views = views[np.lexsort((views["at"], views["post_id"]))]
    views = views[history.is_last(views["post_id"])]
    return np.asarray(views[np.lexsort((views["post_id"], views["at"]))])


def _seen(entries: Entries, views: Entries) -> Int64[np.ndarray, " n"]:
    """Posts of a history and others, sorted, each once."""
    seen = np.sort(np.concatenate([entries["post_id"][entries["undo"] == 0], views["post_id"]]))
    return np.asarray(seen[history.is_last(seen)])


def _seen_before(stored: _Stored) -> SeenFilter:
    return SeenFilter.from_bytes(b"".join([rows_of("seen_before", value) for value in stored.get("seen_before", ())]))
