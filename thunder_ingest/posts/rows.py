"""The rows of the post store: the columns, and all indexes that change together with them."""

from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt32

from thunder_ingest.counts.stored_totals import PostTotals
from thunder_ingest.events import Post
from thunder_ingest.events.muting import Phrases
from thunder_ingest.events.text import MAX_TOKENS
from thunder_ingest.kernels.compiled import kernel
from thunder_ingest.kernels.id_table import (
    FIRST,
    SECOND,
    IdTable,
    claim,
    find_indices,
    id_table,
    index_of,
    place_of,
    release,
    with_room,
)
from thunder_ingest.posts import author_index, timeline, token_arena
from thunder_ingest.posts.author_index import AuthorIndex, longer, slots_for, with_more_entries, with_slots
from thunder_ingest.posts.columns import PLAIN, PostBatch, PostColumns, PostFacts, Referred, StoredColumns, stored_zeros
from thunder_ingest.posts.dictionary_encoding import LabelBits, LanguageCodes
from thunder_ingest.posts.references import References, decide, link, references, referring, stored, unlink
from thunder_ingest.posts.referred import ABOVE, ANSWERED, BY, FLAGS, OF, POST_ID, REQUIRED, ROW, SHOWN, walk
from thunder_ingest.posts.table import joined_labels
from thunder_ingest.posts.timeline import Timeline

_FIRST_CAPACITY: Final = 1024
_PLACED_BY: Final = ("created_at", "kind", "conversation_id", "in_reply_to_post_id", "source_post_id")
_SHOWN_BY: Final = ("source_author_id", "photos", "video_ms")


class Moderation(NamedTuple):
    """The times of a post's deletion and labels, as in `Post`; kept beside the rows, since a record may come late."""

    deleted_at: int = 0
    labels: dict[str, int] = {}  # noqa: RUF012  # never changed

    @property
    def newest_at(self) -> int:
        """The newest of the times."""
        return max(self.deleted_at, *map(abs, self.labels.values()), 0)

    @property
    def active(self) -> list[str]:
        """The labels that are on the post."""
        return [label for label, at in self.labels.items() if at > 0]


class PostRows:
    """Growing columns and the indexes over them. The caller locks; `min_video_ms` is the minimum length of a video.

    Rows are reused in the order in which they became free, so that posts of similar age are neighbours.
    """

    def __init__(self, min_video_ms: int) -> None:
        self.columns = stored_zeros(_FIRST_CAPACITY + 1)
        self.references: References = references(_FIRST_CAPACITY + 1)
        self.totals = PostTotals(_FIRST_CAPACITY + 1)
        self.ids: IdTable = id_table()  # post id → row + 1, first row that refers to it + 1
        self.authors: AuthorIndex = author_index.author_index()
        self.timeline: Timeline = timeline.timeline()
        self.arena = token_arena.token_arena()
        self.labels = LabelBits()
        self.languages = LanguageCodes()
        self.string_forms: dict[int, tuple[str | None, str | None]] = {}
        self.stored = 0
        self.moderation: dict[int, Moderation] = {}
        self._min_video_ms = min_video_ms
        self._marks = np.zeros(_FIRST_CAPACITY + 1, np.bool_)  # all False between reads
        self._used = 0
        self._free = np.zeros(0, np.int64)

    def of(self, post_ids: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The rows of posts, -1 for a post that is not stored; any shape."""
        rows = np.empty(post_ids.shape, np.int64)
        wanted = np.ascontiguousarray(post_ids, np.int64).reshape(-1)
        find_indices(self.ids.keys, self.ids.values, wanted, rows.reshape(-1))
        return rows

    def take(self, rows: Int64[np.ndarray, " n"]) -> PostColumns:
        """A copy of rows; absent authors of referenced posts are filled in if those posts are stored.

        The source of a repost is the original.
        """
        s = self.columns
        post_id = s.post_id[rows]
        source, original = s.source_post_id[rows], self.references.original_id[rows]
        is_resolved = (original != 0) & (original != source)
        posts = PostColumns(
            post_id=post_id,
            author_id=self._author_ids(rows, post_id),
            photos=s.photos[rows].astype(np.int32),
            tokens=self.tokens(rows),
            totals=self.totals.take(rows),
            **{name: getattr(s, name)[rows] for name in (*PLAIN, "labels", "lang") if name != "photos"},
        )
        if is_resolved.any():
            posts.source_post_id[is_resolved] = original[is_resolved]
            posts.source_author_id[is_resolved] = 0  # that of the repost between
        self._fill_author(posts.source_author_id, posts.source_post_id)
        self._fill_author(posts.in_reply_to_author_id, posts.in_reply_to_post_id)
        return posts

    def facts(self, rows: Int64[np.ndarray, " n"]) -> PostFacts:
        """A copy of the columns for visibility rules."""
        s = self.columns
        post_id = s.post_id[rows]
        return PostFacts(post_id, self._author_ids(rows, post_id), s.subscriber_only[rows], s.labels[rows])

    def referred(self, rows: Int64[np.ndarray, " n"]) -> Referred:
        """The posts that posts refer to, at any distance."""
        s = stored(self.ids, self.authors, self.columns)
        entries = walk(s, self.references.original_id, self._marks, rows)
        is_lost = (entries[:, ROW] < 0) & ((entries[:, FLAGS] & REQUIRED != 0) | self._were_deleted(entries))
        named = self._named_authors(entries)
        known = (entries[:, ROW] >= 0) | is_lost | (named != 0)
        entries, is_lost, named = entries[known], is_lost[known], named[known]
        _, author_id, subscriber_only, labels = self.facts(entries[:, ROW])
        author_id = np.where(entries[:, ROW] >= 0, author_id, named)
        is_above = entries[:, FLAGS] & ABOVE != 0
        return Referred(entries[:, OF], entries[:, POST_ID], author_id, subscriber_only, labels, is_above, is_lost)

    def _named_authors(self, entries: Int64[np.ndarray, "m 5"]) -> Int64[np.ndarray, " m"]:
        """The author of a post that is not stored, as the post that refers to it names it; 0 for a stored post.

        A post leaves the store by age before its replies do; a block of its author still hides these.
        """
        s, by, flags = self.columns, entries[:, BY], np.where(entries[:, ROW] < 0, entries[:, FLAGS], 0)
        shown = np.where(flags & SHOWN != 0, s.source_author_id[by], 0)
        return np.where(flags & ANSWERED != 0, s.in_reply_to_author_id[by], shown)

    def _were_deleted(self, entries: Int64[np.ndarray, "m 5"]) -> Bool[np.ndarray, " m"]:
        deleted = np.zeros(len(entries), np.bool_)
        missing = np.flatnonzero(entries[:, ROW] < 0)
        deleted[missing] = self.were_deleted(entries[missing, POST_ID])
        return deleted

    def tokens(self, rows: Int64[np.ndarray, " n"]) -> UInt32[np.ndarray, "n 64"]:
        """A copy of the first tokens of texts, padded with 0."""
        tokens = np.zeros((len(rows), MAX_TOKENS), np.uint32)
        token_arena.padded(self.arena, rows, self._texts(), tokens)
        return tokens

    def _author_ids(self, rows: Int64[np.ndarray, " n"], post_id: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        return np.where(post_id != 0, self.authors.ids[self.columns.author[rows]], 0)

    def make_room(self, batch: PostBatch) -> None:
        """Copy arrays that are too small for a batch into larger ones; concurrent reads find the same in both."""
        n = len(batch.post_id)
        self.ids = with_room(self.ids, 2 * n)  # a post and the post that it refers to
        self.authors = with_slots(self.authors, n)
        self.timeline = timeline.with_room(self.timeline, n)
        self.arena = token_arena.with_room(self.arena, batch.words + batch.lengths)
        capacity = len(self.columns.post_id) - 1
        needed = self._used + max(n - len(self._free), 0)
        if needed > capacity:
            capacity = max(needed, capacity * 2)  # untouched pages cost no memory
            self.totals.grow(capacity + 1)
            self.references = References(*(longer(column, capacity + 1) for column in self.references))
            self._marks = longer(self._marks, capacity + 1)
            self.columns = StoredColumns(*(longer(column, capacity + 1) for column in self.columns))

    def moderate(self, posts: Iterable[Post]) -> Int64[np.ndarray, " k"]:
        """Join deletions and labels; returns the rows of deleted posts, which the caller drops."""
        moderated = {}
        for post in posts:
            known = self.moderation.get(post.post_id, Moderation())
            self.moderation[post.post_id] = moderated[post.post_id] = Moderation(
                max(known.deleted_at, post.deleted_at), joined_labels(known.labels, post.labels)
            )
        rows = self.of(np.array(list(moderated), np.int64))
        for row, each in zip(rows.tolist(), moderated.values(), strict=True):
            if row >= 0:
                self.columns.labels[row] = self.labels.mask(each.active)
        deleted_at = np.array([each.deleted_at for each in moderated.values()], np.int64)
        return np.asarray(rows[(rows >= 0) & (self.columns.at[rows] <= deleted_at)])

    def were_deleted(self, post_ids: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """True for posts that are not stored because of a deletion."""
        known = [self.moderation.get(post_id) for post_id in post_ids.tolist()]
        deleted = np.array([post is not None and post.deleted_at > 0 for post in known], np.bool_)
        return np.asarray(deleted & (self.of(post_ids) < 0))

    def current(self, batch: PostBatch) -> PostBatch:
        """The posts that are neither deleted nor stored with newer content, each with the labels of all records.

        The records of one post may come from several partitions, in any order.
        """
        rows = self.of(batch.post_id)
        keep = (rows < 0) | (self.columns.at[rows] <= batch.at)
        if self.moderation:
            for place, post_id in enumerate(batch.post_id.tolist()):
                if known := self.moderation.get(post_id):
                    keep[place] &= batch.at[place] > known.deleted_at
                    batch.labels[place] = known.active
        return batch if keep.all() else batch.take(keep)

    def forget_moderation(self, oldest_ms: int) -> None:
        """Drop the moderation of posts that are not stored and too old to come back."""
        old = [post_id for post_id, post in self.moderation.items() if post.newest_at < oldest_ms]
        for post_id, row in zip(old, self.of(np.array(old, np.int64)).tolist(), strict=True):
            if row < 0:
                del self.moderation[post_id]

    def put(self, batch: PostBatch) -> Int64[np.ndarray, " k"]:
        """Write posts, each once, into their rows or into new rows, after `make_room`; returns the new rows."""
        n = len(batch.post_id)
        rows, is_new = np.empty(n, np.int64), np.empty(n, np.bool_)
        first_seen(self.ids, batch.post_id, is_new)
        new = self._take_rows(int(is_new.sum()))
        claim_rows(self.ids, batch.post_id, is_new, new, rows)
        if new.size < n:
            self._clear_beside(rows[~is_new])
        moved = self._moved(rows, is_new, batch)
        self._detach(rows[moved & ~is_new])
        self._assign_authors(rows[moved], batch.author_id[moved])
        self._write(rows, batch)
        self._attach(rows[moved])
        self._decide(np.concatenate([rows, self._referring(batch.post_id[moved])]))
        return new

    def drop(self, rows: Int64[np.ndarray, " n"]) -> None:
        """Clear the rows of stored posts, each named once."""
        if len(rows) == 0:
            return
        post_ids = self.columns.post_id[rows]
        self._detach(rows)
        self._clear_beside(rows)
        token_arena.put_back(self.arena, rows, self._texts())
        self.totals.clear(rows)
        for column in (*self.columns, *self.references):
            column[rows] = 0
        forget(self.ids, post_ids)
        self._decide(self._referring(post_ids))
        self._free = np.concatenate([self._free, rows])
        self.stored -= len(rows)

    def contain_any(
        self, rows: Int64[np.ndarray, " n"], phrases: Phrases, most: int, found: Bool[np.ndarray, " n"]
    ) -> int:
        """Write True for posts with a muted keyword in their text; returns the number of rows that are done."""
        return token_arena.contain_any(self.arena, rows, self._texts(), phrases, most, found)

    def _texts(self) -> token_arena.Texts:
        return token_arena.Texts(self.columns.text, self.columns.words, self.columns.stream)

    # --- parts of `put` and `drop` ----------------------------------------------------------------------------------

    def _take_rows(self, n: int) -> Int64[np.ndarray, " n"]:
        again, self._free = self._free[:n], self._free[n:]
        fresh = np.arange(self._used, self._used + n - len(again))
        self._used += len(fresh)
        self.stored += n
        return np.concatenate([again, fresh])

    def _moved(
        self, rows: Int64[np.ndarray, " n"], is_new: Bool[np.ndarray, " n"], batch: PostBatch
    ) -> Bool[np.ndarray, " n"]:
        """True for posts that are new, or differ in a column that an index or another post depends on."""
        if is_new.all():
            return is_new
        moved = is_new | (self.authors.ids[self.columns.author[rows]] != batch.author_id)
        for name in (*_PLACED_BY, *_SHOWN_BY):
            moved |= getattr(self.columns, name)[rows] != batch.plain[name]
        return np.asarray(moved)

    def _assign_authors(self, rows: Int64[np.ndarray, " n"], author_ids: Int64[np.ndarray, " n"]) -> None:
        slots = np.empty(len(rows), np.int32)
        slots_for(self.authors, author_ids, slots)
        self.columns.author[rows] = slots

    def _write(self, rows: Int64[np.ndarray, " n"], batch: PostBatch) -> None:
        at = _span(rows)
        self.columns.post_id[at] = batch.post_id
        self.columns.at[at] = batch.at
        for name, column in batch.plain.items():
            getattr(self.columns, name)[at] = column
        self.columns.labels[at] = 0
        for place, labels in batch.labels.items():
            self.columns.labels[rows[place]] = self.labels.mask(labels)
        codes = np.array([self.languages.code(lang) for lang in batch.langs], np.uint16)
        self.columns.lang[at] = codes[batch.lang]
        self.string_forms.update((int(rows[place]), forms) for place, forms in batch.forms.items())
        token_arena.store(self.arena, rows, batch.tokens, batch.words, batch.streams, batch.lengths, self._texts())

    def _attach(self, rows: Int64[np.ndarray, " n"]) -> None:
        s = self.columns
        rows = self._oldest_first(rows)
        timeline.merge(self.timeline, rows, s.created_at, s.post_id, s.author, s.kind)
        by_author, entered = self._author_by_author(rows), 0
        while True:
            entered = author_index.merge(self.authors, by_author, entered, s.created_at, s.post_id, s.author, s.kind)
            if entered == len(rows):
                break
            self.authors = with_more_entries(self.authors)
        link(stored(self.ids, self.authors, s), self.references, rows)

    def _detach(self, rows: Int64[np.ndarray, " n"]) -> None:
        s = self.columns
        if len(rows):
            unlink(stored(self.ids, self.authors, s), self.references, rows)
            rows = self._oldest_first(rows)
            timeline.take_out(self.timeline, rows, s.created_at, s.post_id)
            author_index.take_out(self.authors, self._author_by_author(rows), s.created_at, s.post_id, s.author)

    def _referring(self, post_ids: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " k"]:
        return referring(self.ids, self.columns.kind, self.columns.post_id, self.references.following, post_ids)

    def _decide(self, rows: Int64[np.ndarray, " n"]) -> None:
        decide(stored(self.ids, self.authors, self.columns), self.references, rows, self._min_video_ms)

    def _oldest_first(self, rows: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        at = _span(rows)
        created_at = self.columns.created_at[at]
        if (created_at[1:] > created_at[:-1]).all():  # the common case
            return rows
        return rows[np.lexsort((self.columns.post_id[at], created_at))]

    def _author_by_author(self, oldest_first: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The rows grouped by author, oldest first within each author."""
        return oldest_first[np.argsort(self.columns.author[oldest_first], kind="stable")]

    def _clear_beside(self, rows: Int64[np.ndarray, " n"]) -> None:
        if self.string_forms:
            for row in rows.tolist():
                self.string_forms.pop(row, None)

    def _fill_author(self, author_ids: Int64[np.ndarray, " n"], post_ids: Int64[np.ndarray, " n"]) -> None:
        gaps = np.flatnonzero((author_ids == 0) & (post_ids != 0))
        rows = self.of(post_ids[gaps])
        author_ids[gaps] = np.where(rows >= 0, self.authors.ids[self.columns.author[rows]], 0)


def _span(rows: Int64[np.ndarray, " n"]) -> slice | Int64[np.ndarray, " n"]:
    """Consecutive rows as a slice, which reads and writes several times as fast; other rows unchanged."""
    follow = len(rows) > 0 and rows[-1] - rows[0] == len(rows) - 1 and (rows[1:] > rows[:-1]).all()
    return slice(int(rows[0]), int(rows[-1]) + 1) if follow else rows


@kernel
def first_seen(ids: IdTable, post_ids: Int64[np.ndarray, " n"], is_new: Bool[np.ndarray, " n"]) -> None:
    """Write True for posts that are not stored."""
    keys, values = ids.keys, ids.values
    for i in range(len(post_ids)):
        is_new[i] = index_of(keys, values, post_ids[i]) < 0


@kernel
def claim_rows(
    ids: IdTable,
    post_ids: Int64[np.ndarray, " n"],
    is_new: Bool[np.ndarray, " n"],
    new: Int64[np.ndarray, " k"],
    rows: Int64[np.ndarray, " n"],
) -> None:
    """Write the rows of posts; posts that are not stored get the new rows."""
    taken = 0
    for i in range(len(post_ids)):
        at = claim(ids, post_ids[i])
        if is_new[i]:
            ids.values[at, FIRST] = new[taken] + 1
            taken += 1
        rows[i] = ids.values[at, FIRST] - 1


@kernel
def forget(ids: IdTable, post_ids: Int64[np.ndarray, " n"]) -> None:
    """Delete the rows of posts; an id that other posts refer to stays in the table."""
    for post_id in post_ids:
        at = place_of(ids.keys, post_id)
        ids.values[at, FIRST] = 0
        if ids.values[at, SECOND] == 0:
            release(ids, at)
