"""A compiled MessagePack decoder from records of `thunder-posts` to arrays, for start-ups that read a million of them.

It decodes plain records: live posts without labels, string ids and revision, with fewer than 64 tokens. The caller
decodes all other records with `events.unpack_post`.

glossary of shapes: `n` records, `fields` of a record, `k` distinct codes, `bytes` of all records, `total` bytes copied.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from thunder_ingest.events import Post
from thunder_ingest.events.text import MAX_TOKENS
from thunder_ingest.kernels.compiled import kernel
from thunder_ingest.posts.columns import PLAIN, PostBatch, as_stored, streams_of

_FIELDS: Final = Post.__struct_fields__[:-1]
_COUNT: Final = len(_FIELDS)
_POST_ID, _AUTHOR_ID = _FIELDS.index("post_id"), _FIELDS.index("author_id")
_AT, _DELETED_AT = _FIELDS.index("at"), _FIELDS.index("deleted_at")
_TEXT, _LANG, _TOKENS = _FIELDS.index("text"), _FIELDS.index("lang"), _FIELDS.index("tokens")
_ABSENT: Final = tuple(_FIELDS.index(name) for name in ("labels", "post_form", "author_form"))
_LABELS, _POST_FORM, _AUTHOR_FORM = _ABSENT
_LONGEST_LANG: Final = 7
_NUMBER, _BYTES, _NOTHING, _BROKEN = 0, 1, 2, 3


class Unpacked(NamedTuple):
    """The batch of the plain records, and the indexes of the other records."""

    batch: PostBatch
    newest_at: int
    others: list[int]


def unpack_plain(values: Sequence[bytes]) -> Unpacked:
    """Decode the plain records among packed records of different posts."""
    n = len(values)
    raw = np.frombuffer(b"".join(values), np.uint8)
    ends = np.cumsum(np.fromiter(map(len, values), np.int64, n))
    fields, lengths = np.empty((_COUNT, n), np.int64), np.empty((_COUNT, n), np.int64)
    is_plain = np.zeros(n, np.bool_)
    plain = read_records(raw, ends, fields, lengths, is_plain)
    fields, lengths = fields[:, :plain], lengths[:, :plain]
    lang, codes = numbered(fields[_LANG])
    tokens = _pieces(raw, fields[_TOKENS], lengths[_TOKENS]).view("<u4").astype(np.uint32, copy=False)
    words = lengths[_TOKENS] // 4
    streams, stream_lengths = streams_of(raw, fields[_TEXT], lengths[_TEXT], tokens, words)
    batch = PostBatch(
        post_id=fields[_POST_ID],
        author_id=fields[_AUTHOR_ID],
        at=fields[_AT],
        plain={name: as_stored(name, fields[_FIELDS.index(name)]) for name in PLAIN},
        tokens=tokens,
        words=words,
        streams=streams,
        lengths=stream_lengths,
        langs=[code.to_bytes(8, "little").rstrip(b"\0").decode() for code in codes.tolist()],
        lang=lang,
        labels={},
        forms={},
    )
    others = np.flatnonzero(~is_plain).tolist() if plain < n else []
    return Unpacked(batch, int(fields[_AT].max(initial=0)), others)


@kernel
def numbered(codes: Int64[np.ndarray, " n"]) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " k"]]:
    """Dictionary encode codes with few distinct values: the number of each code, and the code of each number."""
    numbers, unique = np.empty(len(codes), np.int64), np.empty(len(codes), np.int64)
    known = 0
    for i in range(len(codes)):
        number = 0
        while number < known and unique[number] != codes[i]:
            number += 1
        if number == known:
            unique[known] = codes[i]
            known += 1
        numbers[i] = number
    return numbers, unique[:known]


def _pieces(
    raw: UInt8[np.ndarray, " bytes"], begins: Int64[np.ndarray, " n"], lengths: Int64[np.ndarray, " n"]
) -> UInt8[np.ndarray, " total"]:
    pieces = np.empty(int(lengths.sum()), np.uint8)
    copy_pieces(raw, begins, lengths, pieces)
    return pieces


@kernel
def copy_pieces(
    raw: UInt8[np.ndarray, " bytes"],
    begins: Int64[np.ndarray, " n"],
    lengths: Int64[np.ndarray, " n"],
    into: UInt8[np.ndarray, " total"],
) -> None:
    """Copy pieces of bytes one after another."""
    at = 0
    for i in range(len(begins)):
        for byte in range(begins[i], begins[i] + lengths[i]):
            into[at] = raw[byte]
            at += 1


@kernel
def read_records(
    raw: UInt8[np.ndarray, " bytes"],
    ends: Int64[np.ndarray, " n"],
    fields: Int64[np.ndarray, "fields n"],
    lengths: Int64[np.ndarray, "fields n"],
    is_plain: Bool[np.ndarray, " n"],
) -> int:
    """Write the numbers of plain records, and start and length of their texts; returns the number of plain records."""
    plain = begin = 0
    for i in range(len(ends)):
        is_plain[i] = _read_record(raw, begin, ends[i], fields, lengths, plain)
        plain += is_plain[i]
        begin = ends[i]
    return plain


@kernel
def _read_record(
    raw: UInt8[np.ndarray, " bytes"],
    at: int,
    end: int,
    fields: Int64[np.ndarray, "fields n"],
    lengths: Int64[np.ndarray, "fields n"],
    place: int,
) -> bool:
    if end - at < 3 or raw[at] != 0xDC or raw[at + 1] != 0 or raw[at + 2] != _COUNT:
        return False
    at += 3
    for field in range(_COUNT):
        if at >= end:
            return False
        form, size = _form(raw[at])
        if form == _BROKEN or at + 1 + size > end:
            return False
        number: Any = np.int64(raw[at]) & 0x7F if raw[at] < 0x80 else np.int64(0)
        if raw[at] >= 0xA0 and raw[at] < 0xC0:
            number = np.int64(raw[at]) & 0x1F
        elif raw[at] == 0xC3:
            number = np.int64(1)
        for byte in range(at + 1, at + 1 + size):
            number = number << 8 | np.int64(raw[byte])
        at += 1 + size
        is_text = field in (_TEXT, _LANG, _TOKENS)
        is_absent = field in (_LABELS, _POST_FORM, _AUTHOR_FORM)
        if number < 0 or form != (_BYTES if is_text else _NOTHING if is_absent else _NUMBER):
            return False
        fields[field, place] = number
        if is_text:
            if at + number > end:
                return False
            fields[field, place], lengths[field, place] = at, number
            at += number
    if (
        lengths[_LANG, place] > _LONGEST_LANG
        or lengths[_TOKENS, place] >= 4 * MAX_TOKENS
        or lengths[_TOKENS, place] & 3
    ):
        return False
    lang: Any = np.int64(0)
    for byte in range(lengths[_LANG, place]):
        lang |= np.int64(raw[fields[_LANG, place] + byte]) << (8 * byte)
    fields[_LANG, place] = lang
    return at == end and fields[_AT, place] > 0 and fields[_DELETED_AT, place] == 0


@kernel
def _form(first: int) -> tuple[int, int]:
    """The kind of a value by its first byte, and the number of bytes of its number or length."""
    if first < 0x80 or first == 0xC2 or first == 0xC3:
        return _NUMBER, 0
    if first == 0x80 or first == 0xC0:
        return _NOTHING, 0
    if first >= 0xA0 and first < 0xC0:
        return _BYTES, 0
    if first >= 0xC4 and first <= 0xC6:
        return _BYTES, 1 << (first - 0xC4)
    if first >= 0xCC and first <= 0xCF:
        return _NUMBER, 1 << (first - 0xCC)
    if first >= 0xD9 and first <= 0xDB:
        return _BYTES, 1 << (first - 0xD9)
    return _BROKEN, 0
