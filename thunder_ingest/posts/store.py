"""The post store of a worker: every servable post, as columns, replicated from `thunder-posts` and `post-counts`.

It has the part of the published system's Thunder. A replica thread writes, the request path reads; both take `lock`.
The writer holds it only for the compiled work on a batch of at most BATCH posts, not while it decodes posts or copies
columns into larger ones. A row identifies a post only while the lock is held. A read in several steps holds the lock
over all steps, and writes nothing meanwhile.
"""

import threading
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt32

from thunder_ingest.counts.early_counts import EarlyCounts
from thunder_ingest.counts.stored_totals import as_array
from thunder_ingest.events import Post, PostCounts, pack
from thunder_ingest.events.muting import Phrases, phrases_of
from thunder_ingest.posts.author_index import sums_of
from thunder_ingest.posts.columns import PostBatch, PostColumns, PostFacts, Referred, batch_of
from thunder_ingest.posts.in_network import Posts, Scratch, StoreLimits, query, scratch, select
from thunder_ingest.posts.packed_records import unpack_plain
from thunder_ingest.posts.popularity import DEFAULT, Popularity, most_popular
from thunder_ingest.posts.rows import PostRows
from thunder_ingest.posts.timeline import BEGIN, END, position
from thunder_ingest.users.accounts import AccountTable

__all__ = ["PostColumns", "PostStore", "StoreLimits"]

_MIN_MODERATED: Final = 1_000
"""Deletions and labels are not searched for old ones below twice this number."""
BATCH: Final = 1_000
"""Posts per write under the lock: a millisecond or two."""
TOKENS_AT_ONCE: Final = 50_000
"""Tokens that a search for muted keywords reads under one hold of the lock, and one text more: a millisecond."""


class PostStore:
    """The servable posts. `newest_at`, the newest event time in any record, is the log's own clock.

    `accounts` has the status of their authors.

    A post takes about 280 bytes and 4 bytes per token: 92 of columns, 64 of counts, 22 of references, 8 in the
    timeline, and its part of the indexes by id and by author, which are a third to two thirds full. String ids come on
    top. Rows, blocks and texts of dropped posts are reused, so memory follows the peak number of posts. The writer
    expires posts. A read finds the oldest allowed post by binary search and never sees a dropped post.
    """

    def __init__(self, limits: StoreLimits | None = None) -> None:
        self.limits = limits or StoreLimits()
        self.lock = threading.RLock()
        self._writing = threading.RLock()  # taken before `lock`
        self.newest_at = 0
        self.accounts = AccountTable()
        self._rows = PostRows(self.limits.min_video_ms)
        self._scratch = scratch(1, 1)
        self._early_counts = EarlyCounts()
        self._moderated = _MIN_MODERATED

    def __len__(self) -> int:
        return self._rows.stored

    # --- writing ----------------------------------------------------------------------------------------------------

    def apply(self, posts: Sequence[Post]) -> None:
        """Apply records of `thunder-posts`, of tombstones their states; the order of a post's records does not matter.

        Deletions and labels count by their times, and so does content. A post whose state is not live is removed.
        """
        latest: dict[int, Post] = {}
        for post in posts:
            known = latest.get(post.post_id)
            if post.is_live and (known is None or post.at >= known.at):
                latest[post.post_id] = post
        newest_at = max((max(post.at, post.deleted_at) for post in posts), default=0)
        self._moderate([post for post in posts if post.deleted_at or post.labels])
        live = iter(latest.values())
        while some := list(islice(live, BATCH)):
            self._put(batch_of(some))
        with self.lock:
            self.newest_at = max(self.newest_at, newest_at)

    def apply_packed(self, values: Sequence[bytes]) -> tuple[Int64[np.ndarray, " p"], list[int]]:
        """Apply the plain records among packed records of different posts, without decoding each.

        Returns:
            the creation times of the plain records, and the indexes of the other records, which the caller decodes
            and applies.

        """
        created_at, others = [np.zeros(0, np.int64)], []
        for begin in range(0, len(values), BATCH):
            read = unpack_plain(values[begin : begin + BATCH])
            self._put(read.batch)
            created_at.append(read.batch.plain["created_at"])
            others += [begin + place for place in read.others]
            with self.lock:
                self.newest_at = max(self.newest_at, read.newest_at)
        return np.concatenate(created_at), others

    def remove(self, post_ids: Sequence[int]) -> None:
        """Drop posts; their counts are kept for a while, since a deleted post may be restored."""
        unique = np.array(list(dict.fromkeys(post_ids)), np.int64)
        with self._writing, self.lock:
            rows = self._rows.of(unique)
            self._drop(rows[rows >= 0])

    def _moderate(self, posts: Sequence[Post]) -> None:
        if posts:
            with self._writing, self.lock:
                self._drop(self._rows.moderate(posts))

    def _drop(self, rows: Int64[np.ndarray, " k"]) -> None:
        totals = self._rows.totals
        counted = rows[totals.at[rows] > 0]
        self._early_counts.put(self._rows.columns.post_id[counted], totals.take(counted), totals.at[counted])
        self._rows.drop(rows)

    def apply_counts(self, records: Sequence[PostCounts]) -> None:
        """Apply records of `post-counts`: the newest of a post wins, also if the post arrives later."""
        latest: dict[int, PostCounts] = {}
        for record in records:
            known = latest.get(record.post_id)
            if known is None or record.at >= known.at:
                latest[record.post_id] = record
        post_ids = np.array(list(latest), np.int64)
        totals, at = as_array(list(latest.values())), np.array([record.at for record in latest.values()], np.int64)
        with self._writing, self.lock:
            self.newest_at = max(self.newest_at, int(at.max(initial=0)))
            rows = self._rows.of(post_ids)
            early = np.flatnonzero(rows < 0)
            self._early_counts.put(post_ids[early], totals[early], at[early])
            newer = np.flatnonzero((rows >= 0) & (at >= self._rows.totals.at[rows]))
            self._rows.totals.put(rows[newer], totals[newer], at[newer])

    def remove_counts(self, post_ids: Sequence[int]) -> None:
        """Drop the counts of posts: their records in `post-counts` are tombstones."""
        unique = np.array(list(dict.fromkeys(post_ids)), np.int64)
        with self._writing, self.lock:
            rows = self._rows.of(unique)
            self._rows.totals.clear(rows[rows >= 0])
            self._early_counts.pop(unique)

    def expire(self, now_ms: int) -> int:
        """Drop posts that are too old to be candidates; returns their number."""
        expired = 0
        while rows := self._oldest(now_ms - self.limits.max_age_ms):
            expired += rows
        with self._writing:
            self._early_counts.expire(now_ms - self.limits.max_age_ms)
        if len(self._rows.moderation) > 2 * self._moderated:
            with self._writing, self.lock:
                self._rows.forget_moderation(now_ms - self.limits.max_age_ms)
                self._moderated = max(_MIN_MODERATED, len(self._rows.moderation))
        return expired

    def warm_up(self) -> None:
        """Compile all kernels of readers and writers, or load them from the cache; the first time takes seconds."""
        store = PostStore(self.limits)
        now_ms = 1_000_000_000_000
        fields = {"kind": 1, "in_reply_to_post_id": 1, "tokens": b"word", "created_at": now_ms, "at": now_ms}
        store.apply([Post(post_id=id_, author_id=id_, **fields) for id_ in (1, 2, 3)])  # type: ignore[arg-type]
        store.apply_packed([pack(Post(post_id=4, author_id=4, created_at=now_ms, at=now_ms))])
        none, one = np.zeros(0, np.int64), np.ones(1, np.int64)
        for videos_only in (False, True):
            store.in_network(one, 1, none, now_ms, videos_only=videos_only)
        store.contain_any(one, phrases_of(("word",), True))
        store.apply_counts([PostCounts(post_id=id_, at=now_ms, totals=[1]) for id_ in (1, 9)])
        store.columns(store.popular(now_ms, 1))
        store.author_views(one)
        store.referred(store.rows_of(one))
        store.remove([1])
        store.expire(now_ms * 2)

    def _put(self, batch: PostBatch) -> None:
        with self._writing:
            self._rows.make_room(batch)
            with self.lock:
                self._put_early_counts(self._rows.put(self._rows.current(batch)))

    def _put_early_counts(self, new: Int64[np.ndarray, " k"]) -> None:
        if len(self._early_counts):
            found, totals, at = self._early_counts.pop(self._rows.columns.post_id[new])
            self._rows.totals.put(new[found], totals, at)

    def _oldest(self, oldest_ms: int) -> int:
        """Drop a batch of the oldest posts; returns their number."""
        with self._writing, self.lock:
            line, stored = self._rows.timeline, self._rows.columns
            begin = int(line.bounds[BEGIN])
            end = min(position(line, stored.created_at, stored.post_id, oldest_ms, 0), begin + BATCH)
            self._rows.drop(line.row[begin:end].astype(np.int64))
            return end - begin

    # --- reading ----------------------------------------------------------------------------------------------------

    def rows_of(self, post_ids: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The rows of posts, -1 for a post that is not stored; ids of any shape."""
        with self.lock:
            return self._rows.of(post_ids)

    def were_deleted(self, post_ids: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """True for posts that are not stored because of a deletion."""
        with self.lock:
            return self._rows.were_deleted(post_ids)

    @property
    def labels(self) -> list[str]:
        """The names of all labels that posts had, and that were asked for, but for those of the last bit."""
        return self._rows.labels.known

    def columns(self, rows: Int64[np.ndarray, " n"]) -> PostColumns:
        """A copy of rows, in the given order; row -1 reads as zeros.

        An absent author of a source or of a replied-to post is filled in if that post is stored. The source of a repost
        of a repost is the original.
        """
        with self.lock:
            return self._rows.take(rows)

    def facts(self, rows: Int64[np.ndarray, " n"]) -> PostFacts:
        """The columns for visibility rules: like `columns`, in a fifth of the time."""
        with self.lock:
            return self._rows.facts(rows)

    def referred(self, rows: Int64[np.ndarray, " n"]) -> Referred:
        """The posts that posts refer to, at any distance; row -1 refers to nothing."""
        with self.lock:
            return self._rows.referred(rows)

    def tokens(self, rows: Int64[np.ndarray, " n"]) -> UInt32[np.ndarray, "n 64"]:
        """The first tokens of texts, like `columns`."""
        with self.lock:
            return self._rows.tokens(rows)

    def video_ms(self, rows: Int64[np.ndarray, " n"]) -> Int32[np.ndarray, " n"]:
        """The lengths of videos, like `columns`."""
        with self.lock:
            lengths: Int32[np.ndarray, " n"] = self._rows.columns.video_ms[rows]
            return lengths

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
        """The rows of candidates by followed authors, newest first, by the rules of `in_network`."""
        following = np.ascontiguousarray(following, np.int64)
        excluded = np.ascontiguousarray(excluded, np.int64)
        with self.lock:
            most = min(self.limits.max_results if limit is None else limit, len(self))
            wanted = query(viewer, now_ms - self.limits.max_age_ms, self.limits, most, videos_only=videos_only)
            return select(self._posts(), self._room(), wanted, following, excluded)

    def _posts(self) -> Posts:
        rows, stored = self._rows, self._rows.columns
        return Posts(
            rows.ids,
            rows.authors,
            rows.timeline,
            stored.post_id,
            stored.created_at,
            stored.author,
            stored.source_post_id,
            stored.source_author_id,
            rows.references.original_id,
            rows.references.state,
            rows.references.is_video,
        )

    def _room(self) -> Scratch:
        slots, rows = len(self._rows.authors.ids), len(self._rows.columns.post_id)
        if len(self._scratch.seen) < slots or len(self._scratch.excluded) * 8 < rows:
            self._scratch = scratch(slots, rows)
        return self._scratch

    def popular(self, now_ms: int, limit: int, rules: Popularity = DEFAULT) -> Int64[np.ndarray, " r"]:
        """The rows of the most popular originals and quotes, best first, by the rules of `popularity`."""
        with self.lock:
            stored, line = self._rows.columns, self._rows.timeline
            oldest = position(line, stored.created_at, stored.post_id, now_ms - self.limits.max_age_ms, 0)
            entries = slice(oldest, int(line.bounds[END]))
            signals = self._rows.totals.signals
            return most_popular(
                line.row[entries], line.tag[entries], signals, stored.created_at, stored.post_id, now_ms, limit, rules
            )

    def author_views(self, author_ids: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The impressions of all stored posts of each author: the author's reach."""
        views = np.empty(len(author_ids), np.int64)
        with self.lock:
            sums_of(self._rows.authors, np.ascontiguousarray(author_ids), self._rows.totals.impressions, views)
        return views

    def contain_any(self, post_ids: Int64[np.ndarray, " n"], phrases: Phrases) -> Bool[np.ndarray, " n"]:
        """True for stored posts with a muted keyword in their text, however long.

        The time is proportional to the length of the texts. The lock is released after each TOKENS_AT_ONCE tokens.
        """
        found, done = np.zeros(len(post_ids), np.bool_), 0
        while done < len(post_ids):
            with self.lock:
                rows = self._rows.of(post_ids[done:])
                done += self._rows.contain_any(rows, phrases, TOKENS_AT_ONCE, found[done:])
        return found

    def forms(self, rows: Int64[np.ndarray, " n"]) -> list[tuple[str, str]]:
        """The published forms of the ids of posts and of their authors, as text."""
        with self.lock:
            stored = self._rows.columns
            post_ids = stored.post_id[rows]
            author_ids = np.where(post_ids != 0, self._rows.authors.ids[stored.author[rows]], 0)
            integers = zip(post_ids.tolist(), author_ids.tolist(), strict=True)
            strings = [self._rows.string_forms.get(row, (None, None)) for row in rows.tolist()]
        return [
            (post_form or str(post_id), author_form or str(author_id))
            for (post_id, author_id), (post_form, author_form) in zip(integers, strings, strict=True)
        ]

    def language(self, code: int) -> str:
        """The language tag of a code in `PostColumns.lang`."""
        return self._rows.languages.name(code)

    def languages_in(self, tags: Iterable[str]) -> Int64[np.ndarray, " n"]:
        """The codes, ascending, of posts in the primary languages of some tags, and in an unknown language."""
        with self.lock:
            return self._rows.languages.codes_in(tags)

    def label_mask(self, names: Iterable[str]) -> int:
        """The bits of some labels in `PostColumns.labels`."""
        with self.lock:
            return self._rows.labels.mask(names)

    def label_names(self, mask: int) -> list[str]:
        """The labels of some bits in `PostColumns.labels`."""
        with self.lock:
            return self._rows.labels.names(mask)
