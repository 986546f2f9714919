"""Ids: apps publish integers or strings; inside the system every id is an int64.

A string of decimal digits without a leading zero is the integer. Any other string is an id of its own: "007" is not 7.
One documented hash maps a string to its int64: XXH3-64 of the UTF-8 bytes, the top bit cleared, 0 replaced by 1. Any
process in any language computes the same number. No code decodes time or anything else from an id.
"""

from functools import lru_cache
from typing import Annotated

import msgspec
import xxhash

MAX_ID = 2**63 - 1
MAX_ID_BYTES = 255
ID_RULE = (
    "an id is an integer from 1 to 2^63-1, or a string of 1 to 255 bytes without spaces, braces or control characters"
)
_FORBIDDEN = r"[{}\s\x00-\x1f\x7f-\x9f]"

PublishedId = (
    Annotated[int, msgspec.Meta(ge=1, le=MAX_ID, description="an integer id")]
    | Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            max_length=MAX_ID_BYTES,
            pattern=rf"^(?!.*{_FORBIDDEN})",
            description="a UUID, a DID, a URI …: 1 to 255 bytes without braces, spaces or control characters",
        ),
    ]
)
"""An id as an app publishes it."""


def id64(published: int | str) -> int:
    """The int64 of a published id inside the system.

    An integer, or its decimal string without leading zeros, is itself; any other string is hashed to 63 bits.

    Raises:
        ValueError: for an invalid id: an integer outside 1 … 2⁶³−1, also as a string, or an empty or over-long string.

    """
    if type(published) is int:
        if 0 < published <= MAX_ID:
            return published
        raise ValueError(f"id {published} is outside 1 … 2^63-1")
    return _string_id64(published)


@lru_cache(maxsize=1 << 16)
def _string_id64(published: str) -> int:
    if _is_integer(published):
        return id64(int(published))
    encoded = published.encode()
    if not 0 < len(encoded) <= MAX_ID_BYTES:
        raise ValueError(f"an id of {len(encoded)} bytes; 1 to {MAX_ID_BYTES} are allowed")
    return xxhash.xxh3_64_intdigest(encoded) & MAX_ID or 1


def published_form(published: int | str) -> str:
    """The one text form of a published id, for Redis keys and for JSON that readers get."""
    return published if isinstance(published, str) else str(published)


def string_form(published: int | str) -> str | None:
    """The published form if the int64 alone cannot give it back (a hashed string), else None."""
    return published if isinstance(published, str) and not _is_integer(published) else None


def _is_integer(published: str) -> bool:
    """True for "0" and for ASCII digits without a leading zero."""
    return published.isascii() and published.isdigit() and (published[0] != "0" or published == "0")
