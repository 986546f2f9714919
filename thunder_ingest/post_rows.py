"""The rows of the post store: where a post stands, and what is kept of it beside the columns."""

from collections.abc import Sequence
from itertools import repeat
from typing import Final

import numpy as np
from jaxtyping import Int64, UInt32

from thunder_ingest.author_index import AuthorIndex
from thunder_ingest.codes import LabelBits, LanguageCodes
from thunder_ingest.events import Post, PostCounts
from thunder_ingest.popularity import engagement_rate
from thunder_ingest.post_columns import TOTALS, PostColumns, take, write, zeros
from thunder_ingest.text import MAX_TOKENS, token_hashes

_FIRST_CAPACITY: Final = 1024
_MAX_TOTAL: Final = 2**31 - 1


class PostRows:
    """Columns that grow by doubling, and the few things of a post that are no columns. Knows no lock and no rule.

    `columns` has one row more than there is room for: it is never written, so that row -1 reads as no post.
    """

    def __init__(self) -> None:
        self.columns = zeros(_FIRST_CAPACITY + 1)
        self.rate = engagement_rate(self.columns.totals)
        self.counts_at = np.zeros(_FIRST_CAPACITY + 1, np.int64)
        self.row: dict[int, int] = {}
        self.texts: dict[int, str] = {}
        self.string_forms: dict[int, tuple[str | None, str | None]] = {}
        self.long_tokens: dict[int, UInt32[np.ndarray, " t"]] = {}  # all of them, where the columns are too narrow
        self.labels = LabelBits()
        self.languages = LanguageCodes()
        self.authors = AuthorIndex()
        self._free = list(range(_FIRST_CAPACITY))[::-1]

    def of(self, post_ids: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The rows of posts, -1 where a post is not stored; any shape."""
        found = map(self.row.get, post_ids.ravel().tolist(), repeat(-1))
        return np.fromiter(found, np.int64, post_ids.size).reshape(post_ids.shape)

    def take(self, rows: Int64[np.ndarray, " n"]) -> PostColumns:
        """A copy of rows, with the authors that an event left out filled in where that post is stored."""
        posts = take(self.columns, rows)
        self._fill_author(posts.source_author_id, posts.source_post_id)
        self._fill_author(posts.in_reply_to_author_id, posts.in_reply_to_post_id)
        return posts

    def put(self, posts: Sequence[Post]) -> list[int]:
        """Write posts, each in its row or in a new one; returns the posts (their ids) that were not stored before."""
        new = [post.post_id for post in posts if post.post_id not in self.row]
        while len(self._free) < len(new):
            self._grow()
        self.row.update((post_id, self._free.pop()) for post_id in new)
        rows = [self.row[post.post_id] for post in posts]
        write(self.columns, np.array(rows, np.int64), posts)
        for row, post in zip(rows, posts, strict=True):
            self._put_aside(row, post)
        self.authors.add([self.row[post_id] for post_id in new], self.columns.author_id)
        return new

    def drop(self, post_ids: Sequence[int]) -> None:
        """Clear the rows of stored posts."""
        rows = [self.row.pop(post_id) for post_id in post_ids]
        for column in self.columns:
            column[rows] = 0
        self.counts_at[rows] = 0
        self.rate[rows] = self.rate[-1]
        for beside in (self.texts, self.string_forms, self.long_tokens):
            for row in rows:
                beside.pop(row, None)
        self._free += rows

    def put_counts(self, row: int, record: PostCounts) -> None:
        """Write the running totals of a stored post."""
        known = record.totals[:TOTALS]
        self.columns.totals[row, : len(known)] = np.clip(np.array(known, np.int64), 0, _MAX_TOTAL)
        self.rate[row] = engagement_rate(self.columns.totals[row : row + 1])[0]
        self.counts_at[row] = record.at

    def counts(self, post_id: int) -> PostCounts:
        """The running totals of a stored post."""
        row = self.row[post_id]
        return PostCounts(post_id=post_id, at=int(self.counts_at[row]), totals=self.columns.totals[row].tolist())

    def _put_aside(self, row: int, post: Post) -> None:
        self.columns.labels[row] = self.labels.mask(label for label, at in post.labels.items() if at > 0)
        self.columns.lang[row] = self.languages.code(post.lang)
        self.texts[row] = post.text
        if post.post_form is not None or post.author_form is not None:
            self.string_forms[row] = post.post_form, post.author_form
        self.long_tokens.pop(row, None)
        if self.columns.tokens[row, -1]:
            tokens = token_hashes(post.text)
            if len(tokens) > MAX_TOKENS:
                self.long_tokens[row] = tokens

    def _fill_author(self, author_ids: Int64[np.ndarray, " n"], post_ids: Int64[np.ndarray, " n"]) -> None:
        gaps = np.flatnonzero((author_ids == 0) & (post_ids != 0))
        author_ids[gaps] = self.columns.author_id[self.of(post_ids[gaps])]

    def _grow(self) -> None:
        room = len(self.counts_at) - 1
        larger = zeros(2 * room + 1)
        for new, old in zip(larger, self.columns, strict=True):
            new[:room] = old[:room]
        self.columns = larger
        self.rate = np.concatenate([self.rate, np.repeat(self.rate[-1:], room)])
        self.counts_at = np.concatenate([self.counts_at, np.zeros(room, np.int64)])
        self._free += range(2 * room - 1, room - 1, -1)
