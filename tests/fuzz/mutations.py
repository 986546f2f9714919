"""Bad inputs: valid ones with damage, from a seed. The same seed gives the same inputs."""

import gzip
import json
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

HOSTILE: Final[tuple[Any, ...]] = (
    *(None, "", 0, -1, 1, True, False, 0.5, 1e300, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 10**400, [], {}),
    *(
        [[]],
        {"a": {}},
        "0",
        "007",
        "7",
        "-1",
        "+7",
        " 7",
        "7.0",
        "1e3",
        "٣",
        "\u0967",
        "{7}",
        "a b",
        "a\x00b",
        "\ufeff7",
    ),
    *("x" * 256, "ü" * 255, "\u200b", "\ufdfa" * 2_000, "\U0001f600" * 300, "a" * 30_000, "'" * 5_000, "#x " * 5_000),
    *("2026-11-30T00:00:00Z", 1_790_000_000, 1_790_000_000_000_000, 253_402_300_799_999, 253_402_300_800_000, "null"),
    *("joined", "keywords+1", "\r\nDEL user:{7}\r\n", "../../etc", "NaN", list(range(2_000)), "\ud800", ["x"] * 300),
)
"""Values for fields: of other types, at and beyond the limits, with the meaning of a command or a name elsewhere."""

_RAW: Final = (
    *(
        b"",
        b"{",
        b"}",
        b"[]",
        b"null",
        b"0",
        b'""',
        b"\xff\xfe{\x00}\x00",
        b"\xef\xbb\xbf{}",
        b"\x1f\x8b\x08",
        b"\x00" * 64,
    ),
    *(b"[" * 5_000, b'{"a":' * 5_000, b'{"type":"follow"}', b'{"type":' * 3, b'{"type":"post_created","at":NaN}'),
    *(
        b'{"type":"\xff"}',
        b'{"at":1,"at":2,"type":"block"}',
        b"{" + b" " * 300_000 + b"}",
        b'"' + b"a" * 270_000 + b'"',
    ),
)


def damaged_json(draw: random.Random, event: dict[str, Any]) -> bytes | None:
    """One message: an event as it is, with damaged fields or bytes, or something else."""
    kind = draw.random()
    if kind < 0.2:
        return dumped(event)
    if kind < 0.7:
        return dumped(_damaged_fields(draw, event))
    if kind < 0.75:
        return draw.choice(_RAW)
    if kind < 0.76:
        return None
    if kind < 0.78:
        return gzip.compress(dumped(event))
    if kind < 0.80:
        return dumped(event).decode().encode("utf-16")
    if kind < 0.82:
        return draw.randbytes(draw.randrange(200))
    return damaged_bytes(draw, dumped(event))


def dumped(event: dict[str, Any]) -> bytes:
    """JSON in UTF-8; what UTF-8 cannot hold is escaped."""
    try:
        return json.dumps(event, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(event).encode()


def _damaged_fields(draw: random.Random, event: dict[str, Any]) -> dict[str, Any]:
    damaged = dict(event)
    for _ in range(draw.randrange(1, 4)):
        name = draw.choice(sorted(damaged)) if damaged else "type"
        match draw.randrange(6):
            case 0:
                damaged.pop(name, None)
            case 1:
                damaged[name.upper()] = damaged.get(name)
            case 2:
                damaged[name] = [damaged.get(name)]
            case 3:
                damaged[name] = str(damaged.get(name))
            case _:
                damaged[name] = draw.choice(HOSTILE)
    return damaged


def damaged_bytes(draw: random.Random, raw: bytes) -> bytes:
    """Bytes with a few changed, cut out, repeated or put in."""
    changed = bytearray(raw)
    for _ in range(draw.randrange(1, 5)):
        at, length = draw.randrange(len(changed) + 1), draw.randrange(9)
        match draw.randrange(4):
            case 0:
                changed[at : at + length] = draw.randbytes(length)
            case 1:
                del changed[at : at + length]
            case 2:
                changed[at:at] = changed[at : at + length]
            case _:
                del changed[at:]
    return bytes(changed)


def damaged_fields(
    draw: random.Random, fields: dict[bytes, bytes], values: Sequence[Callable[[random.Random], bytes]]
) -> dict[bytes, bytes]:
    """A Redis hash with some values damaged, exchanged, or replaced by one of `values`."""
    found = dict(fields)
    for name in list(found):
        match draw.randrange(8):
            case 0:
                found[name] = damaged_bytes(draw, found[name])
            case 1:
                found[name] = draw.choice(list(fields.values()))
            case 2:
                found[name] = draw.choice(values)(draw)
            case 3:
                found[damaged_bytes(draw, name)] = found.pop(name)
            case _:
                pass
    return found
