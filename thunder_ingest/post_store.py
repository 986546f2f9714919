"""Thunder's in-memory store: every servable post, as columns, replicated from `thunder-posts` and `post-counts`.

A replica thread writes, the request path reads; both take `lock`. A row means a post only while the lock is held:
whoever reads in several steps holds it over all of them.
"""

import threading
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from jaxtyping import Bool, Int64, UInt32

from thunder_ingest.events import ORIGINAL, QUOTE, Post, PostCounts
from thunder_ingest.in_network import InNetworkRead, StoreLimits, select
from thunder_ingest.popularity import popularity
from thunder_ingest.post_columns import PostColumns
from thunder_ingest.post_rows import PostRows
from thunder_ingest.text import contains_sequence

__all__ = ["PostColumns", "PostStore", "StoreLimits"]

_MAX_EARLY_COUNTS: Final = 65_536


class PostStore:
    """The servable posts. `newest_at`, the newest event time that any record has shown, is the log's own clock."""

    def __init__(self, limits: StoreLimits | None = None) -> None:
        self.limits = limits or StoreLimits()
        self.lock = threading.RLock()
        self.newest_at = 0
        self._rows = PostRows()
        self._early_counts: dict[int, PostCounts] = {}  # oldest arrival first

    def __len__(self) -> int:
        return len(self._rows.row)

    # --- writing ----------------------------------------------------------------------------------------------------

    def apply(self, posts: Sequence[Post]) -> None:
        """Take over records of `thunder-posts`, each post's in the order of the log; what is not live is removed."""
        latest = {post.post_id: post for post in posts}
        with self.lock:
            for post in posts:
                self.newest_at = max(self.newest_at, post.at, post.deleted_at)
            self.remove([post.post_id for post in latest.values() if not post.is_live])
            for post_id in self._rows.put([post for post in latest.values() if post.is_live]):
                counts = self._early_counts.pop(post_id, None)
                if counts is not None:
                    self._rows.put_counts(self._rows.row[post_id], counts)

    def remove(self, post_ids: Sequence[int]) -> None:
        """Forget posts; what was counted is kept for a while, since a deleted post may be restored."""
        with self.lock:
            stored = [post_id for post_id in dict.fromkeys(post_ids) if post_id in self._rows.row]
            for post_id in stored:
                self._keep_early(self._rows.counts(post_id))
            self._rows.drop(stored)

    def apply_counts(self, records: Sequence[PostCounts]) -> None:
        """Take over records of `post-counts`: the newest of a post wins, also where the post is still to come."""
        with self.lock:
            for record in records:
                self.newest_at = max(self.newest_at, record.at)
                row = self._rows.row.get(record.post_id)
                if row is None:
                    self._keep_early(record)
                elif record.at >= self._rows.counts_at[row]:
                    self._rows.put_counts(row, record)

    def expire(self, now_ms: int) -> int:
        """Forget posts that are too old to be candidates; returns how many."""
        with self.lock:
            stored = self._rows.columns
            old = (stored.post_id > 0) & (stored.created_at < now_ms - self.limits.max_age_ms)
            expired: list[int] = stored.post_id[old].tolist()
            self._rows.drop(expired)
            return len(expired)

    def _keep_early(self, record: PostCounts) -> None:
        known = self._early_counts.get(record.post_id)
        if record.at and (known is None or record.at >= known.at):
            self._early_counts[record.post_id] = record
            if len(self._early_counts) > _MAX_EARLY_COUNTS:
                del self._early_counts[next(iter(self._early_counts))]

    # --- reading ----------------------------------------------------------------------------------------------------

    def rows_of(self, post_ids: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The rows of posts, -1 where a post is not stored; any shape of ids."""
        with self.lock:
            return self._rows.of(post_ids)

    def columns(self, rows: Int64[np.ndarray, " n"]) -> PostColumns:
        """A copy of some rows, in the order asked for; row -1 reads as zeros.

        Authors of sources and of replied-to posts that an event left out are filled in where that post is stored.
        """
        with self.lock:
            return self._rows.take(rows)

    def in_network(
        self,
        following: Int64[np.ndarray, " m"],
        viewer: int,
        excluded: Int64[np.ndarray, " k"],
        now_ms: int,
        limit: int | None = None,
        *,
        videos_only: bool = False,
    ) -> Int64[np.ndarray, " r"]:
        """The rows of posts by followed authors that may be candidates, newest first; the rules are `in_network`'s."""
        read = InNetworkRead(viewer, following, excluded, now_ms - self.limits.max_age_ms, videos_only)
        with self.lock:
            stored = self._rows.columns
            rows = self._rows.authors.rows_of(np.unique(following), stored.author_id)
            selected = select(stored, rows, self._rows.of, read, self.limits)
        return selected[: self.limits.max_results if limit is None else limit]

    def popular(self, now_ms: int, limit: int) -> Int64[np.ndarray, " r"]:
        """The rows of originals and quotes that are liked and fresh, best first; the formula is `popularity`'s."""
        with self.lock:
            stored = self._rows.columns
            fit = (stored.post_id > 0) & ((stored.kind == ORIGINAL) | (stored.kind == QUOTE))
            fit &= stored.created_at >= now_ms - self.limits.max_age_ms
            rows = np.flatnonzero(fit)
            score = popularity(self._rows.rate[rows], stored.created_at[rows], now_ms)
            best = np.lexsort((-stored.post_id[rows], -score))[:limit]
            return rows[best]

    def contains_phrase(
        self, rows: Int64[np.ndarray, " n"], phrase: UInt32[np.ndarray, " k"]
    ) -> Bool[np.ndarray, " n"]:
        """Which posts have the hashed tokens of a phrase in their text, uninterrupted; long texts are read whole."""
        with self.lock:
            tokens = self._rows.columns.tokens[rows]
            found = contains_sequence(tokens, phrase)
            for place in np.flatnonzero((tokens[:, -1] != 0) & ~found).tolist():
                whole = self._rows.long_tokens.get(int(rows[place]))
                found[place] = whole is not None and contains_sequence(whole[np.newaxis], phrase)[0]
            return found

    def texts(self, rows: Int64[np.ndarray, " n"]) -> list[str]:
        """The texts of posts, empty for row -1."""
        with self.lock:
            return [self._rows.texts.get(row, "") for row in rows.tolist()]

    def forms(self, rows: Int64[np.ndarray, " n"]) -> list[tuple[str, str]]:
        """The ids of posts and of their authors as they were published, as text."""
        with self.lock:
            stored = self._rows.columns
            integers = zip(stored.post_id[rows].tolist(), stored.author_id[rows].tolist(), strict=True)
            strings = [self._rows.string_forms.get(row, (None, None)) for row in rows.tolist()]
        return [
            (post_form or str(post_id), author_form or str(author_id))
            for (post_id, author_id), (post_form, author_form) in zip(integers, strings, strict=True)
        ]

    def language(self, code: int) -> str:
        """The language tag of a code in `PostColumns.lang`."""
        return self._rows.languages.name(code)

    def label_mask(self, names: Iterable[str]) -> int:
        """The bits of some labels in `PostColumns.labels`."""
        with self.lock:
            return self._rows.labels.mask(names)

    def label_names(self, mask: int) -> list[str]:
        """The labels that some bits of `PostColumns.labels` stand for."""
        with self.lock:
            return self._rows.labels.names(mask)
