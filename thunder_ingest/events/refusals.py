"""The refusal of a message, with a reason in words for its publisher."""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from infra.ports.errors import UsageError
from thunder_ingest.events.ids import ID_RULE, PublishedId

_PATH: Final = re.compile(r" - at `\$\.(\w+)(?:\[[\d.]+\])?`$")
_TIME_HINTS: Final = {
    "Expected `int` >= ": "before 2001-09-09; seconds, most likely: epoch milliseconds are wanted",
    "Expected `int` <= ": "micro- or nanoseconds, most likely: epoch milliseconds are wanted",
    "Integer value out of range": "epoch milliseconds are wanted",
    "Expected `int`, got": "epoch milliseconds are wanted",
}
_TOO_MANY: Final = re.compile(r"^Expected `array` of length <= (\d+)")
_VARIANT: Final = re.compile(r"^Invalid value .* - at `\$\.type`$|^Object missing required field `type`$")


class Refused(UsageError, ValueError):
    """A message that cannot be used; the text is the reason, for the publisher."""


def in_words(reason: str, variants: tuple[type, ...]) -> str:
    """A decoder's reason, with the valid values of `type` and of enumerations, and the rules for ids and times.

    Args:
        reason: msgspec's text; it stays the beginning, unless it is a regular expression or the limit of a list.
        variants: the events that may be in the topic.

    """
    if _VARIANT.match(reason):
        return f"{reason}; valid are {', '.join(str(each.__struct_config__.tag) for each in variants)}"  # type: ignore[attr-defined]
    if not (path := _PATH.search(reason)):
        return reason
    if path[1] == "at":
        return reason + time_hint(reason)
    if many := _TOO_MANY.match(reason):
        return f"too many values: at most {int(many[1]):,} are allowed{path[0]}"
    ids, values = _rules(variants)
    if path[1] in ids:
        what = "" if "regex" in reason else f" ({reason[: path.start()]})"
        return f"{ID_RULE}{what}{path[0]}"
    return f"{reason}; valid are {', '.join(values[path[1]])}" if path[1] in values else reason


def time_hint(reason: str) -> str:
    """The addition to a decoder's reason that refuses a time: the unit that was most likely given."""
    return next((f"; {hint}" for start, hint in _TIME_HINTS.items() if reason.startswith(start)), "")


@lru_cache(maxsize=16)
def _rules(variants: tuple[type, ...]) -> tuple[frozenset[str], dict[str, tuple[str, ...]]]:
    """The fields with ids, and the valid values of each enumeration."""
    ids, values = set(), {}
    for variant in variants:
        for name, hint in get_type_hints(variant, include_extras=True).items():
            for part in _parts(hint):
                if part in get_args(PublishedId):
                    ids.add(name)
                elif get_origin(part) is Literal:
                    values[name] = get_args(part)
    return frozenset(ids), values


def _parts(hint: Any) -> Iterator[Any]:
    yield hint
    for part in get_args(hint) if get_origin(hint) is not Literal else ():
        yield from _parts(part)
