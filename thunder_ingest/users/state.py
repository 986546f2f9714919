"""The state of a user: history, social graph, muted keywords, seen and served posts.

It is stored as entries (`entries`): a base per kind and a tail per appended batch, in either version of the compact
form (`compact_form`). `decode` reads the state that a request needs, `join` concatenates tails, `compact` folds tails
into bases. All depend on the set of entries alone. Order, duplicates and earlier compactions make no difference, so a
replayed log leads to the same state. Each bounded kind drops its oldest entries by event time:
- Follows: only the newest `following` count. Blocks, mutes and subscriptions are safety rules: the bounds `safety` and
  `blocked_by` are far above the number that people reach by hand, and only keep a state readable.
- Muted keywords: only the newest `keywords` count. Keywords that are cut alike (`events.muting`) are one.
- `compact` reports the number of follows, blocks, mutes, subscriptions and keywords that it drops.
- Undos are kept for `undone_ms` before the newest entry of their kind, and at most `undone` of them. An action that
  arrives after that, and is older than its undo, may count again.
- Seen posts: each post in the history was seen. A post that left the history is kept by id while it is among the
  newest `seen`, then in a Bloom filter, which has false positives (`seen_filter`).
- Rejected posts: those with a report, "not interested", a block or a mute of their author in the history. They are kept
  when they leave it, so that none comes back to the viewer as a repeat.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray

from infra.ports.clock import DAY_MS
from thunder_ingest.events.muting import identity
from thunder_ingest.users import history
from thunder_ingest.users.compact_form import DTYPES, Entries, decode_entries, encode_columns, encode_rows, rows_of
from thunder_ingest.users.entries import EDGE_KINDS, KINDS, VIEW, keyword_entries, keyword_entry
from thunder_ingest.users.seen_filter import FilterSize, SeenFilter

TAIL: Final = b"+"
"""Separates kind and batch in the field name of a tail."""

JOINED: Final = TAIL + b"joined"
"""The end of the field name of a joined tail; no batch has this name (`redis_form`)."""


_SAFER_UNDONE: Final = frozenset(("following", "subscriptions"))
"""The kinds of edges that show more posts: their undo wins at equal times."""

_Stored = Mapping[str, Sequence[bytes]]  # base and tails of each kind


@dataclass(frozen=True, slots=True)
class StateLimits:
    """Bounds on the state of a user, the same for the compacting flow and for readers."""

    positions: int = 1_024
    """Positions of the history."""
    passed_over: bool = True
    """True: a post that was seen without an action is a position of the history, too."""
    following: int = 10_000
    safety: int = 100_000
    """Blocks, and as many mutes, and as many subscriptions."""
    blocked_by: int = 1_000_000
    """Users who block this user."""
    keywords: int = 1_000
    """Muted keywords."""
    seen: int = 4_096
    """Posts that left the history and are kept by id."""
    seen_before: FilterSize = FilterSize()  # noqa: RUF009  # immutable
    """The filter of older seen posts."""
    rejected: int = 4_096
    """Rejected posts that left the history."""
    served: int = 500
    undone: int = 4_096
    """Undos of a kind."""
    undone_ms: int = 30 * DAY_MS
    """Age of the oldest undo: the retention of engagements in the log."""

    def edges(self, kind: str) -> int:
        """The bound of one of EDGE_KINDS."""
        return {"following": self.following, "blocked_by": self.blocked_by}.get(kind, self.safety)


_LIMITS: Final = StateLimits()


class Compacted(NamedTuple):
    """The outcome of `compact`: bases to write, names of tails to delete, and per kind the entries that are dropped."""

    bases: dict[bytes, bytes]
    tails: list[bytes]
    dropped: dict[str, int]


@dataclass(slots=True, eq=False)
class UserState:
    """The state of one user for a feed request."""

    is_known: bool  # has an entry other than served posts
    positions: NDArray[Any]  # [<= 1024] of POSITION, oldest first
    following: Int64[np.ndarray, " f"]  # sorted, as all edges
    blocks: Int64[np.ndarray, " b"]
    blocked_by: Int64[np.ndarray, " c"]
    mutes: Int64[np.ndarray, " m"]
    subscriptions: Int64[np.ndarray, " s"]
    keywords: tuple[str, ...]  # sorted
    seen: Int64[np.ndarray, " n"]  # sorted
    seen_before: SeenFilter
    rejected: Int64[np.ndarray, " j"]  # sorted
    served_ids: Int64[np.ndarray, " r"]  # the newest 500, oldest first
    served_at: Int64[np.ndarray, " r"]  # epoch ms
    is_whole: bool = True
    """False if entries are known to be lost: the state must not be served."""

    @classmethod
    def empty(cls) -> "UserState":
        """The state of a user without entries."""
        return decode({})


def decode(fields: Mapping[bytes, bytes], limits: StateLimits = _LIMITS) -> UserState:
    """The state in the fields of a user's hash: bases are named `kind`, tails `kind+batch`.

    Fields with other names are ignored, so that a newer program may add a kind.

    Raises:
        ValueError: for an unknown version or a broken value.

    """
    stored = _by_kind(fields)
    entries = {kind: _entries(kind, stored) for kind in DTYPES}
    served = _newest_views(entries["served"])[-limits.served :]
    past = history.read(entries["history"], limits.positions, limits.passed_over)
    edges: dict[str, Any] = {
        kind: _standing(kind, _edges(kind, entries[kind]), limits)["target_id"].copy() for kind in EDGE_KINDS
    }
    return UserState(
        is_known=any(kind != "served" for kind in stored),
        positions=past.positions,
        keywords=tuple(sorted(keyword for _, _, keyword in _muted(_keywords(_keyword_rows(stored)), limits))),
        seen=_seen(entries["history"], entries["seen"]),
        seen_before=_seen_before(stored),
        rejected=np.unique(np.concatenate([past.rejected, entries["rejected"]["post_id"]])),
        served_ids=served["post_id"].copy(),
        served_at=served["at"].copy(),
        **edges,
    )


def compact(fields: Mapping[bytes, bytes], limits: StateLimits = _LIMITS) -> Compacted:
    """Fold the tails of each kind into its base.

    Raises:
        ValueError: like `decode`.

    """
    stored, tails = _by_kind(fields), _tails(fields)
    folded, dropped = dict[str, Entries](), dict[str, int]()
    for kind in (kind for kind in EDGE_KINDS if kind in tails):
        folded[kind], dropped[kind] = _compacted_edges(kind, _entries(kind, stored), limits)
    if "served" in tails:
        folded["served"] = _newest_views(_entries("served", stored))[-limits.served :]
    bases = {}
    if "keywords" in tails:
        rows, dropped["keywords"] = _compacted_keywords(_keyword_rows(stored), limits)
        bases["keywords"] = encode_rows(rows)
    if {"history", "seen", "rejected"} & tails.keys():
        past = history.compacted(_entries("history", stored), limits.positions, limits.passed_over)
        folded["history"], left = past.kept, past.left
        if len(past.rejected) or "rejected" in tails:
            rejected = np.concatenate([_views(past.rejected), _entries("rejected", stored)])
            folded["rejected"] = _newest_views(rejected)[-limits.rejected :]
        if len(left) or "seen" in tails:
            seen = _newest_views(np.concatenate([_views(left), _entries("seen", stored)]))
            seen = seen[~np.isin(seen["post_id"], _views(folded["history"])["post_id"])]
            folded["seen"], older = seen[-limits.seen :], seen[: -limits.seen]
            if len(older):
                before = _seen_before(stored).with_posts(older["post_id"], limits.seen_before)
                bases["seen_before"] = encode_rows(before.to_bytes())
    bases |= {kind: encode_columns(entries) for kind, entries in folded.items()}
    return Compacted(
        {kind.encode(): base for kind, base in bases.items()},
        [name for names in tails.values() for name in names],
        {kind: number for kind, number in dropped.items() if number},
    )


def join(fields: Mapping[bytes, bytes]) -> tuple[dict[bytes, bytes], list[bytes]]:
    """Concatenate the tails of each kind into one. A tail that cannot be read stays as it is.

    Returns:
        the fields to write, and the names of those to delete.

    """
    joined, replaced = {}, list[bytes]()
    for kind, names in _tails(fields).items():
        rows = {name: found for name in names if (found := _readable_rows(kind, fields[name])) is not None}
        target = kind.encode() + JOINED
        if rows and (target in rows or target not in fields):  # else it would replace bytes that cannot be read
            joined[target] = encode_rows(b"".join(rows.values()))
            replaced += [each for each in rows if each != target]
    return joined, replaced


def _readable_rows(kind: str, stored: bytes) -> bytes | None:
    """The rows of a tail; None if they cannot be read, or are cut: all rows after them would be shifted."""
    try:
        rows = rows_of(kind, stored)
        if kind == "keywords":
            deque(keyword_entries(rows), maxlen=0)
    except ValueError:
        return None
    return rows if kind not in DTYPES or len(rows) % DTYPES[kind].itemsize == 0 else None


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


# --- edges: the last writer by time wins; at equal times the safer word: an unfollow, a block -----------------------


def _edges(kind: str, entries: Entries) -> Entries:
    """The newest edge to each target, sorted by target."""
    if (np.diff(entries["target_id"]) > 0).all():  # the order of a base
        return entries
    is_safer = entries["undo"] == (kind in _SAFER_UNDONE)
    edges = entries[np.lexsort((is_safer, entries["at"], entries["target_id"]))]
    return np.asarray(edges[history.is_last(edges["target_id"])])


def _standing(kind: str, edges: Entries, limits: StateLimits) -> Entries:
    standing, limit = edges[edges["undo"] == 0], limits.edges(kind)
    return np.asarray(standing[_newest(standing, limit)] if len(standing) > limit else standing)


def _compacted_edges(kind: str, entries: Entries, limits: StateLimits) -> tuple[Entries, int]:
    edges = _edges(kind, entries)
    undone = edges[(edges["undo"] == 1) & (edges["at"] >= edges["at"].max(initial=0) - limits.undone_ms)]
    standing = _standing(kind, edges, limits)
    kept = np.concatenate([standing, undone[_newest(undone, limits.undone)]])
    return np.asarray(kept[np.argsort(kept["target_id"])]), int((edges["undo"] == 0).sum()) - len(standing)


def _newest(edges: Entries, limit: int) -> Int64[np.ndarray, " n"]:
    """Indexes of the newest edges, ascending."""
    return np.sort(np.lexsort((edges["target_id"], edges["at"]))[-limit:])


# --- keywords: like edges, with what the keyword is cut into as target ----------------------------------------------


_Keyword = tuple[int, bool, str]
"""Time, True for muted, and the keyword as the user wrote it."""


def _keyword_rows(stored: _Stored) -> bytes:
    return b"".join([rows_of("keywords", value) for value in stored.get("keywords", ())])


def _keywords(rows: bytes) -> list[_Keyword]:
    """The newest word on each keyword, by time; at equal times muting wins."""
    latest: dict[str, _Keyword] = {}
    for at, undo, keyword in keyword_entries(rows):
        cut, word = identity(keyword), (at, not undo, keyword)
        latest[cut] = max(latest.get(cut, word), word)
    return sorted(latest.values())


def _muted(keywords: list[_Keyword], limits: StateLimits) -> list[_Keyword]:
    return [each for each in keywords if each[1]][-limits.keywords :]


def _compacted_keywords(rows: bytes, limits: StateLimits) -> tuple[bytes, int]:
    keywords = _keywords(rows)
    oldest_undone = keywords[-1][0] - limits.undone_ms if keywords else 0
    undone = [each for each in keywords if not each[1] and each[0] >= oldest_undone][-limits.undone :]
    muted = _muted(keywords, limits)
    kept = b"".join(keyword_entry(at, keyword, not is_muted) for at, is_muted, keyword in muted + undone)
    return kept, sum(is_muted for _, is_muted, _ in keywords) - len(muted)


# --- views: the newest of each post ----------------------------------------------------------------------------------


def _views(entries: Entries) -> Entries:
    """Views of the posts in a history: all entries except undos."""
    done = entries[entries["undo"] == 0]
    views = np.empty(len(done), VIEW)
    views["at"], views["post_id"] = done["at"], done["post_id"]
    return views


def _newest_views(views: Entries) -> Entries:
    """The newest view of each post, oldest first."""
    views = views[np.lexsort((views["at"], views["post_id"]))]
    views = views[history.is_last(views["post_id"])]
    return np.asarray(views[np.lexsort((views["post_id"], views["at"]))])


def _seen(entries: Entries, views: Entries) -> Int64[np.ndarray, " n"]:
    """The distinct posts of a history and of views, sorted."""
    seen = np.sort(np.concatenate([entries["post_id"][entries["undo"] == 0], views["post_id"]]))
    return np.asarray(seen[history.is_last(seen)])


def _seen_before(stored: _Stored) -> SeenFilter:
    return SeenFilter.from_bytes(b"".join([rows_of("seen_before", value) for value in stored.get("seen_before", ())]))
