"""The stored form: both versions, alone and side by side, and stored values of the first version."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.thunder_ingest.users.users import T0, Fields, compacted, edge, favorite, impression, plain, tails_of
from thunder_ingest.events import Block, EngagementEvent, Follow, GraphEvent, MuteKeyword, Unfollow
from thunder_ingest.users.compact_form import (
    COMPACT,
    DTYPES,
    ROWS,
    decode_entries,
    encode,
    encode_columns,
    encode_rows,
    is_compact,
)
from thunder_ingest.users.entries import EDGE, HISTORY, KINDS, VIEW, keyword_entry
from thunder_ingest.users.state import UserState, compact, decode

# Redis data of the first version of this program
BASES_OF_VERSION_1 = {
    b"following": "010268e5cf8b0100000300000000000000000568e5cf8b010000090000000000000001",
    b"blocks": "010168e5cf8b0100008833fe5bc423ae2400",
    b"blocked_by": "010168e5cf8b010000050000000000000000",
    b"mutes": "010168e5cf8b010000050000000000000000",
    b"subscriptions": "010168e5cf8b010000060000000000000000",
    b"keywords": "010168e5cf8b01000000070073706f696c65720968e5cf8b010000010600c38472676572",
    b"history": "01"
    "0968e5cf8b0100000a00000000000000070000000000000000000000000000"
    "5a68e5cf8b0100000a00000000000000070000000000000070110100120000"
    "0168e5cf8b0100000b00000000000000070000000000000000000000130008"
    "c08feecf8b0100000c00000000000000070000000000000000000000000000"
    "6016f0cf8b0100000c00000000000000070000000000000000000000000100",
    b"seen": "010168e5cf8b0100000b000000000000005a68e5cf8b0100000a00000000000000c08feecf8b0100000c00000000000000",
    b"served": "010068e5cf8b0100000500000000000000",
}
TAILS_OF_VERSION_1 = {
    b"following+0-0": "010468e5cf8b010000090000000000000000",
    b"history+0-1": "010568e5cf8b0100000d00000000000000070000000000000000000000130000",
    b"seen+0-1": "010568e5cf8b0100000d00000000000000",
}


def from_hex(values: dict[bytes, str]) -> Fields:
    return {name: bytes.fromhex(value) for name, value in values.items()}


@pytest.mark.parametrize("kind", sorted({*KINDS} - {"seen_before"}))
def test_rows_are_a_version_and_the_entries(kind: str) -> None:
    assert encode(kind, []) == bytes([ROWS])
    assert encode(kind, [b"ab", b"c"]) == bytes([ROWS]) + b"abc"
    assert plain(decode({kind.encode(): encode(kind, [])})) == plain(UserState.empty()) | {"is_known": kind != "served"}


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown kind of user state 'mood'; known are history"):
        encode("mood", [])


def records(dtype: np.dtype[Any]) -> st.SearchStrategy[np.ndarray]:
    """Entries with any values that their fields can hold; times and ids are never negative."""
    limits = {
        name: 2**63 - 1 if dtype[name].kind == "i" else 2 ** (8 * dtype[name].itemsize) - 1
        for name in dtype.names or ()
    }
    entry = st.tuples(*(st.integers(0, limit) | st.integers(0, 3) for limit in limits.values()))
    return st.lists(entry, max_size=40).map(lambda entries: np.array(entries, dtype))


@given(
    st.sampled_from([("history", HISTORY), ("blocks", EDGE), ("seen", VIEW)]).flatmap(
        lambda kind: st.tuples(st.just(kind[0]), records(kind[1]))
    )
)
def test_columns_give_back_the_entries_in_their_order(case: tuple[str, np.ndarray]) -> None:
    kind, entries = case
    stored = encode_columns(entries)
    assert stored[0] == COMPACT
    assert np.array_equal(decode_entries(kind, [stored]), entries)


def test_columns_of_a_history_take_less_than_half_of_its_rows() -> None:
    random = np.random.default_rng(7)
    entries = np.zeros(2_048, HISTORY)
    entries["at"] = T0 + np.cumsum(random.integers(300, 20_000, 2_048))
    entries["post_id"] = np.repeat(random.integers(1, 2**63 - 1, 1_024), 2)
    entries["author_id"] = random.integers(1, 2**63 - 1, 200)[random.zipf(1.3, 2_048) % 200]
    entries["action"] = random.integers(0, 20, 2_048)
    assert len(encode_columns(entries)) < 0.45 * entries.nbytes


@pytest.mark.parametrize("read", [decode, compact])
@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        (b"seen+1", b"\x03" + bytes(16), "version 3; this program knows 1, 2"),
        (b"history+1", b"\x02", "unknown layout"),
        (b"seen+1", b"", "version None; this program knows 1, 2"),
        (b"history+1", b"\x01" + bytes(30), "multiple of element size"),
        (b"history+1", b"\x02\x01nonsense", "broken"),
        (b"history+1", b"\x02\x07", "broken"),
        (b"history+1", encode_columns(np.zeros(9, HISTORY))[:-1], "broken"),
        (b"history+1", b"\x02\x00\x02\x00\x00\x00\x01", "truncated"),
        (b"seen+1", b"\x02\x00" + bytes(99), "bytes too many"),
        (b"keywords+1", b"\x01" + keyword_entry(T0, "word", undo=False)[:-1], "truncated"),
        (b"keywords+1", b"\x01" + bytes(5), "truncated"),
    ],
)
def test_a_value_that_cannot_be_read_is_a_value_error(read: Any, name: bytes, value: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read({name: value})


def test_a_filter_that_is_cut_off_is_a_value_error() -> None:
    for body in (bytes(3), bytes([1, 0, 0, 0, 0, 9, 0, 0, 0, 0])):
        with pytest.raises(ValueError, match="a filter is truncated"):
            decode({b"seen_before": encode_rows(body)})


def test_values_of_the_first_version_are_read() -> None:
    state = plain(decode(from_hex(BASES_OF_VERSION_1 | TAILS_OF_VERSION_1)))
    assert state == {
        "is_known": True,
        "positions": [
            (11, 7, 1700000000001, 0, 0, 0),  # surface 8 of an earlier version
            (13, 7, 1700000000005, 0, 0, 0),
            (10, 7, 1700000000090, 262145, 70000, 0),
        ],
        "following": [3],
        "blocks": [2643089357577008008],
        "blocked_by": [5],
        "mutes": [5],
        "subscriptions": [6],
        "keywords": ("spoiler",),
        "seen": [10, 11, 12, 13],
        "rejected": [],
        "served_ids": [5],
        "served_at": [1700000000000],
        "seen_before": b"",
        "is_whole": True,
    }


def test_a_compaction_rewrites_the_first_version_as_columns_and_reads_as_before() -> None:
    stored = from_hex(BASES_OF_VERSION_1 | TAILS_OF_VERSION_1)
    touched = tails_of([MuteKeyword(user_id=1, keyword="late", at=T0 + 99), edge(Follow, 99, target=77)])
    once = compacted(stored | touched)
    assert plain(decode(once)) == plain(decode(stored | touched))
    assert all(is_compact(once[name]) for name in (b"history", b"following", b"keywords", b"seen"))


events = st.lists(
    st.builds(favorite, st.integers(0, 900_000), st.integers(1, 4), undo=st.booleans())
    | st.builds(impression, st.integers(0, 900_000), st.integers(1, 4))
    | st.builds(edge, st.sampled_from([Follow, Unfollow, Block]), st.integers(0, 9), target=st.integers(2, 3)),
    max_size=12,
)


@given(events, st.randoms(use_true_random=False))
def test_rows_and_columns_side_by_side_equal_rows_alone(
    happened: list[EngagementEvent | GraphEvent], random: Any
) -> None:
    rows = tails_of(happened)
    forms: dict[str, Callable[[str, bytes], bytes]] = {
        "rows": lambda _, value: value,
        "compressed rows": lambda _, value: encode_rows(value[1:]),
        "columns": lambda kind, value: encode_columns(decode_entries(kind, [value])),
    }
    mixed = {
        name: forms[random.choice([*forms])](name.partition(b"+")[0].decode(), value) for name, value in rows.items()
    }
    assert plain(decode(mixed)) == plain(decode(rows))
    assert plain(decode(compacted(mixed))) == plain(decode(rows))


def test_every_kind_but_text_and_filters_has_columns() -> None:
    assert {*KINDS} - {*DTYPES} == {"keywords", "seen_before"}
