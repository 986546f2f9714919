"""The posts that posts refer to, at any distance: the walk for the safety rules.

A post shows the post that it reposts or quotes, which may show another one: these are its content. An app shows the
answered post above a reply, and the first post of the conversation, so the walk includes these, too.
"""

from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Int64

from thunder_ingest.events import REPOST
from thunder_ingest.kernels.compiled import kernel
from thunder_ingest.posts.references import Stored, row_of

MAX_REFERRED: Final = 256
"""A post that refers to more posts than this cannot be checked."""

OF, POST_ID, ROW, FLAGS, BY = range(5)
"""Columns of an entry: index of the given post, id and row of the other one, flags, row of the post that names it."""

ABOVE: Final = 1
"""The flag of an answered post, and of all that is reached through one."""

REQUIRED: Final = 2
"""The flag of a post that must be stored: content at any distance, and a post that content answers."""

ANSWERED: Final = 4
"""The flag of a post that the post in BY answers."""

SHOWN: Final = 8
"""The flag of a post that the post in BY reposts or quotes, except the original of a repost of a repost."""

_SOURCE, _PARENT, _ROOT = range(3)


@kernel
def walk(
    s: Stored,
    original_id: Int64[np.ndarray, " rows"],
    marks: Bool[np.ndarray, " rows"],
    rows: Int64[np.ndarray, " n"],
) -> Int64[np.ndarray, "m 5"]:
    """An entry for each pair of a given post and a post that it refers to, in the order of the given posts.

    A post that is not stored has row -1, and so has one at which the walk ends because of a circle of reposts or of
    MAX_REFERRED. Row -1 among `rows` refers to nothing. `marks` is all False before and after.
    """
    entries = np.empty((len(rows) + 16, 5), np.int64)
    queue, above = np.empty(MAX_REFERRED, np.int64), np.empty(MAX_REFERRED, np.bool_)
    found = 0
    for i in range(len(rows)):
        if rows[i] < 0:
            continue
        queue[0], above[0], held = rows[i], False, 1
        marks[rows[i]] = True
        for of_answers in (False, True):  # content first: a post that is both content and answered is content
            looked = 0
            while looked < held:
                row, is_above = queue[looked], above[looked]
                looked += 1
                for way in range(_SOURCE, (_ROOT if of_answers else _SOURCE) + 1):
                    other = _refers_to(s, original_id, row, way)
                    if other == 0:
                        continue
                    at = row_of(s.ids, other)
                    is_circle = way == _SOURCE and s.kind[row] == REPOST and original_id[row] == 0
                    if at >= 0 and marks[at] and not is_circle:
                        continue
                    flags: Any = ABOVE if is_above or way != _SOURCE else 0
                    if (not is_above and way != _ROOT) or is_circle or held == MAX_REFERRED:
                        flags |= REQUIRED
                    if way == _PARENT:
                        flags |= ANSWERED
                    if way == _SOURCE and original_id[row] == 0:
                        flags |= SHOWN
                    if is_circle or held == MAX_REFERRED:
                        at = -1
                    if found == len(entries):
                        entries = np.concatenate((entries, np.empty_like(entries)))
                    entries[found, OF], entries[found, POST_ID] = i, other
                    entries[found, ROW], entries[found, FLAGS], entries[found, BY] = at, flags, row
                    found += 1
                    if at >= 0:
                        queue[held], above[held] = at, flags & ABOVE != 0
                        held += 1
                        marks[at] = True
        for visited in range(held):
            marks[queue[visited]] = False
    return entries[:found]


@kernel
def _refers_to(s: Stored, original_id: Int64[np.ndarray, " rows"], row: int, way: int) -> int:
    other: int = s.source_id[row]
    if way == _PARENT:
        other = s.parent_id[row]
    elif way == _ROOT:
        other = s.conversation_id[row]
    elif original_id[row] != 0:
        other = original_id[row]
    return other
