"""Damaged values of users in Redis: read, folded and joined, or refused with ValueError, in bounded memory."""

import os
import random
import tracemalloc
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import zstandard

from tests.fuzz.mutations import damaged_fields
from tests.thunder_ingest.users.users import SMALL, compacted, edge, favorite, impression, mute, tails_of, unmute
from thunder_ingest.events import Block, Follow, Mute, Subscribe, Unfollow
from thunder_ingest.users.compact_form import encode
from thunder_ingest.users.entries import view_entry
from thunder_ingest.users.state import UserState, compact, decode, join

INPUTS = 200_000 if os.environ.get("FORYOU_SOAK") else 2_000
MOST_BYTES = 160 << 20
_COMPRESSED, _ROWS = b"\x02\x01", b"\x02\x03"


@cache
def zeros(megabytes: int, has_size: bool) -> bytes:
    """A Zstandard frame; its header has the size, or not."""
    if has_size:
        return zstandard.compress(bytes(megabytes << 20))
    stream = zstandard.ZstdCompressor().compressobj()
    return b"".join(stream.compress(bytes(1 << 20)) for _ in range(megabytes)) + stream.flush()


def bomb(draw: random.Random) -> bytes:
    """A few bytes that decompress to 200 megabytes."""
    return draw.choice((_COMPRESSED, _ROWS)) + zeros(200, draw.random() < 0.5)


def huge_count(draw: random.Random) -> bytes:
    """Columns with a number of entries, and widths of 0: no entry takes a byte."""
    return b"\x02\x00" + np.uint32(draw.choice((2**20, 2**31, 2**32 - 1))).tobytes() + bytes(draw.randrange(64))


def forged_size(draw: random.Random) -> bytes:
    """A frame whose header names a size of up to 2⁶³ bytes."""
    return _COMPRESSED + b"\x28\xb5\x2f\xfd\xe0" + draw.choice((2**40, 2**63)).to_bytes(8, "little") + draw.randbytes(9)


def random_rows(draw: random.Random) -> bytes:
    return b"\x01" + draw.randbytes(draw.choice((0, 1, 17, 27, 27 * 40)))


VALUES = (bomb, huge_count, forged_size, random_rows, lambda draw: b"", lambda draw: draw.randbytes(draw.randrange(80)))


def stored() -> dict[bytes, bytes]:
    graph = [edge(type_, n, target=n + 2) for n in range(4) for type_ in (Follow, Unfollow, Block, Mute, Subscribe)]
    posts = [favorite(n * 400_000, post_id=n + 1) for n in range(20)] + [
        impression(n, post_id=99 - n) for n in range(9)
    ]
    words: list[Any] = [mute(1, "café"), unmute(2, "x"), mute(3, "😂")]
    fields = compacted(tails_of([*graph, *posts, *words]), SMALL) | tails_of([*graph[:3], *posts[:3], *words])
    return fields | {b"served+1": encode("served", [view_entry(5, 6)])}


@pytest.fixture
def bounded_memory() -> Iterator[None]:
    zeros(200, False), zeros(200, True)
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MOST_BYTES


@pytest.mark.usefixtures("bounded_memory")
def test_a_damaged_hash_of_a_user_is_read_or_refused_in_bounded_memory() -> None:
    whole, read = stored(), 0
    for seed in range(INPUTS):
        draw = random.Random(seed)
        fields = damaged_fields(draw, whole, VALUES)
        for work in (decode, compact, join):
            try:
                found = work(fields)
            except ValueError:
                continue
            read += isinstance(found, UserState)
    assert 0 < read < INPUTS


@pytest.mark.parametrize("value", [bomb, huge_count, forged_size], ids=lambda value: value.__name__)
@pytest.mark.usefixtures("bounded_memory")
def test_a_value_that_grows_without_bound_is_refused(value: object) -> None:
    for seed in range(8):
        broken = value(random.Random(seed))  # type: ignore[operator]
        for kind in (b"history", b"following", b"keywords", b"seen_before"):
            with pytest.raises(ValueError, match=r"broken|version"):
                decode({kind: broken})
