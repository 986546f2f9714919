"""Fields of a message that look misspelt: unknown fields are ignored, so a wrong name would go unnoticed."""

from collections.abc import Iterator

import msgspec
from msgspec import Struct


def misspelt(raw: bytes, event: Struct) -> Iterator[tuple[str, str]]:
    """The unknown fields of a message that resemble a known field, each with that field.

    Args:
        raw: the message, a JSON object.
        event: the message decoded.

    """
    known = {field.encode_name for field in msgspec.structs.fields(event)} | {"type"}
    names = msgspec.json.decode(raw, type=dict[str, msgspec.Raw]).keys()
    if unknown := names - known:
        from difflib import get_close_matches  # loaded for rare messages only

        for name in sorted(unknown):
            yield from ((name, close) for close in get_close_matches(name, known - names, n=1))
