"""Voices: one register for each account, post and action, in a hash table; the kernels of the count table.

A voice is a last-writer-wins register by event time (a state-based CRDT: Shapiro, Preguiça, Baquero and Zawirski,
2011); at equal times DONE_WINS decides. So a post's counts depend on the set of events alone, not on order or
repetition.

At most SAMPLE voices of a post and action are kept. Beyond that the voices are a sample (Wegman's adaptive sampling:
Flajolet, On Adaptive Sampling, Computing 43, 1990). At level L only accounts whose hash begins with L zero bits have a
voice, and each of them stands for 2^L accounts. A level is the smallest one at which SAMPLE voices are enough. It grows
with the set of accounts that ever acted, so it does not depend on the order of events either, and an undo of an account
in the sample is still exact. Counts up to SAMPLE are exact. Above that the standard error of a count is
sqrt((2^L - 1) / count), at most 1 / sqrt(SAMPLE / 2) = 3.1 %, if no account undoes its action.

A key is a 64-bit hash of post, action and account. It is a bijection of the account for each post and action. Voices of
different posts share a key with a probability of 3e-6 in a table of ten million.

glossary of shapes: `places` of a table, `n` rows of changes, `p` posts of a table.
"""

from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt16

from thunder_ingest.counts.columns import COUNT_COLUMNS, DWELL_TIME
from thunder_ingest.events.actions import DONE_WINS
from thunder_ingest.kernels.compiled import inlined, kernel
from thunder_ingest.kernels.hashing import GOLDEN, splitmix64
from thunder_ingest.kernels.id_table import FIRST, IdTable, claim_in

SAMPLE: Final = 2_048
"""The largest number of voices of a post and action."""

POST, KEY, STAMP, COLUMN, AMOUNT = range(5)
"""Columns of a row of changes.

STAMP is twice the time, plus one for an undo. AMOUNT is 1 for a done action, the dwell in ms for `dwell_time`, 0 for an
undo. A row with the KEY 0 has no voice: its AMOUNT is the level of its post and action.
"""
ROW: Final = 5

_FIRST_PLACES: Final = 256
_KEY, _STAMP, _VALUE = range(3)
_TOP_BIT: Final = 64
_AMOUNT_BITS: Final = 32
_AMOUNT_MASK: Final = 2**_AMOUNT_BITS - 1


class Voices(NamedTuple):
    """An open-addressing table with 24 bytes a place; key 0 marks a free place."""

    entries: Int64[np.ndarray, "places 3"]  # key, stamp, cell << 32 | amount; cell = row of the post * 20 + column
    used: Int64[np.ndarray, "1"]


class PostColumns(NamedTuple):
    """The posts of a table; 117 bytes a post."""

    post_id: Int64[np.ndarray, " p"]
    at: Int64[np.ndarray, " p"]  # time of the newest event
    kept: UInt16[np.ndarray, "p 20"]  # voices, with undone ones
    standing: UInt16[np.ndarray, "p 20"]  # voices that are not undone
    dwell_ms: Int64[np.ndarray, " p"]  # sum over the standing voices of `dwell_time`
    level: UInt8[np.ndarray, "p 20"]
    changed: Bool[np.ndarray, " p"]  # has an event that is not written yet, perhaps a repeated one


def voices(places: int = _FIRST_PLACES) -> Voices:
    """An empty table; `places` is a power of two."""
    return Voices(np.zeros((places, 3), np.int64), np.zeros(1, np.int64))


def places_for(held: int) -> int:
    """The number of places for some voices: at most five of eight are taken."""
    return max(_FIRST_PLACES, 1 << (held * 8 // 5).bit_length())


def post_columns(rows: int) -> PostColumns:
    """Zeros for some posts."""
    cells = (rows, COUNT_COLUMNS)
    return PostColumns(
        np.zeros(rows, np.int64),
        np.zeros(rows, np.int64),
        np.zeros(cells, np.uint16),
        np.zeros(cells, np.uint16),
        np.zeros(rows, np.int64),
        np.zeros(cells, np.uint8),
        np.zeros(rows, np.bool_),
    )


def keys_of(
    post_id: Int64[np.ndarray, " n"], column: Int64[np.ndarray, " n"], account_id: Int64[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """The keys of voices, never 0."""
    cell = splitmix64(post_id.view(np.uint64) * np.uint64(COUNT_COLUMNS) + column.view(np.uint64) + GOLDEN)
    keys: Int64[np.ndarray, " n"] = splitmix64(account_id.view(np.uint64) + cell).view(np.int64)
    keys[keys == 0] = 1
    return keys


@inlined
def _place_of(entries: Int64[np.ndarray, "places 3"], key: int) -> int:
    """The place of a key, or the free place at which the search for it ends."""
    at = key & (len(entries) - 1)
    while entries[at, _KEY] != 0 and entries[at, _KEY] != key:
        at = (at + 1) & (len(entries) - 1)
    return at


@inlined
def _is_sampled(key: int, level: int) -> bool:
    return level == 0 or np.uint64(key) >> np.uint64(_TOP_BIT - level) == 0


@kernel
def join(
    rows: IdTable,
    table: Voices,
    posts: PostColumns,
    changes: Int64[np.ndarray, "n 5"],
    oldest_at: int,
    sample: int,
    is_new: Bool[np.ndarray, " n"],
) -> bool:
    """Join changes into a table with room for them; ignore those before `oldest_at`.

    Args:
        rows: the row of each post, plus one, as FIRST value.
        table: the voices.
        posts: the posts, with room for new ones.
        changes: the rows.
        oldest_at: time of the oldest event that counts.
        sample: the largest number of voices of a post and action.
        is_new: set to True for each row that changed or added a voice.

    Returns:
        True if a post and action has more than `sample` voices, or a new level.

    """
    keys, values, taken = rows.keys, rows.values, rows.used
    entries, used = table.entries, table.used
    post_id, at, kept, standing = posts.post_id, posts.at, posts.kept, posts.standing
    dwell_ms, levels, changed = posts.dwell_ms, posts.level, posts.changed
    crowded = False
    for i in range(len(changes)):
        stamp, column = changes[i, STAMP], changes[i, COLUMN]
        if stamp >> 1 < oldest_at:
            continue
        place = claim_in(keys, taken, changes[i, POST])
        row = values[place, FIRST] - 1
        if row < 0:
            row = taken[0] - 1
            values[place, FIRST] = row + 1
            post_id[row] = changes[i, POST]
        changed[row] = True
        at[row] = max(at[row], stamp >> 1)
        key, amount = changes[i, KEY], changes[i, AMOUNT]
        if key == 0:
            if amount > levels[row, column]:
                levels[row, column] = amount
                crowded = True
            continue
        if not _is_sampled(key, levels[row, column]):
            continue
        place = _place_of(entries, key)
        first = DONE_WINS >> column & 1  # of two stamps of one time, the greater one wins, or the smaller one
        before, old = entries[place, _STAMP], entries[place, _VALUE] & _AMOUNT_MASK
        if entries[place, _KEY] == 0:
            used[0] += 1
            entries[place, _KEY] = key
            kept[row, column] += 1
            crowded |= kept[row, column] > sample
            standing[row, column] += 1 - (stamp & 1)
        elif stamp ^ first > before ^ first or (stamp == before and amount > old):
            standing[row, column] += (before & 1) - (stamp & 1)
        else:
            continue
        if column == DWELL_TIME:
            dwell_ms[row] += amount - old
        entries[place, _STAMP] = stamp
        entries[place, _VALUE] = (row * COUNT_COLUMNS + column) << _AMOUNT_BITS | amount
        is_new[i] = True
    return crowded


@kernel
def enter(rows: IdTable, post_ids: Int64[np.ndarray, " p"]) -> None:
    """Enter posts into an empty table of rows, which has room; the first gets row 0."""
    for row in range(len(post_ids)):
        rows.values[claim_in(rows.keys, rows.used, post_ids[row]), FIRST] = row + 1


@kernel
def move(
    table: Voices,
    into: Voices,
    posts: PostColumns,
    row_of: Int64[np.ndarray, " q"],
) -> None:
    """Copy the voices that belong to a level, and to a row, into an empty table with room; count them again.

    Args:
        table: the voices.
        into: gets the copies.
        posts: with the levels; `kept`, `standing` and `dwell_ms` are replaced.
        row_of: the row in `posts` of each row that the voices name, -1 for a post that is forgotten.

    """
    entries, new, used = table.entries, into.entries, into.used
    kept, standing, dwell_ms, levels = posts.kept, posts.standing, posts.dwell_ms, posts.level
    kept[:] = 0
    standing[:] = 0
    dwell_ms[:] = 0
    for at in range(len(entries)):
        key, cell, amount = entries[at, _KEY], entries[at, _VALUE] >> _AMOUNT_BITS, entries[at, _VALUE] & _AMOUNT_MASK
        row, column = row_of[cell // COUNT_COLUMNS], cell % COUNT_COLUMNS
        if key == 0 or row < 0 or not _is_sampled(key, levels[row, column]):
            continue
        place = _place_of(new, key)
        used[0] += 1
        new[place, _KEY], new[place, _STAMP] = key, entries[at, _STAMP]
        new[place, _VALUE] = (row * COUNT_COLUMNS + column) << _AMOUNT_BITS | amount
        kept[row, column] += 1
        standing[row, column] += 1 - (entries[at, _STAMP] & 1)
        if column == DWELL_TIME:
            dwell_ms[row] += amount


def rows_of(table: Voices, posts: PostColumns) -> Int64[np.ndarray, "n 5"]:
    """All voices as rows of changes."""
    held = table.entries[table.entries[:, _KEY] != 0]
    cell = held[:, _VALUE] >> _AMOUNT_BITS
    rows = np.empty((len(held), ROW), np.int64)
    rows[:, POST], rows[:, COLUMN] = posts.post_id[cell // COUNT_COLUMNS], cell % COUNT_COLUMNS
    rows[:, KEY], rows[:, STAMP], rows[:, AMOUNT] = held[:, _KEY], held[:, _STAMP], held[:, _VALUE] & _AMOUNT_MASK
    return rows


def levels_of(posts: PostColumns, rows: Int64[np.ndarray, " r"]) -> Int64[np.ndarray, "n 5"]:
    """The levels above 0 of some posts as rows of changes, each with the time of its post's newest event."""
    at, column = np.nonzero(posts.level[rows])
    row = rows[at]
    levels = np.zeros((len(row), ROW), np.int64)
    levels[:, POST], levels[:, STAMP], levels[:, COLUMN] = posts.post_id[row], posts.at[row] * 2, column
    levels[:, AMOUNT] = posts.level[row, column]
    return levels
