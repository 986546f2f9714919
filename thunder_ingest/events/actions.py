"""The 19 actions of viewers on posts, and surfaces as small integers."""

from functools import lru_cache
from typing import Final, Literal, get_args

import xxhash

ActionName = Literal[
    "favorite",
    "reply",
    "repost",
    "photo_expand",
    "click",
    "profile_click",
    "vqv",
    "share",
    "share_via_dm",
    "share_via_copy_link",
    "dwell",
    "quote",
    "quoted_click",
    "follow_author",
    "not_interested",
    "block_author",
    "mute_author",
    "report",
    "dwell_time",
]
ACTIONS: Final[tuple[ActionName, ...]] = get_args(ActionName)
"""The 19 actions in the published order (names are the API); the last is continuous, in milliseconds of dwell."""
ACTION_INDEX: Final[dict[ActionName, int]] = {name: index for index, name in enumerate(ACTIONS)}
NEGATIVE_ACTIONS: Final[tuple[ActionName, ...]] = ("not_interested", "block_author", "mute_author", "report")
DONE_WINS: Final = sum(1 << ACTION_INDEX[name] for name in NEGATIVE_ACTIONS)
"""A bit for each action that counts as done if its undo has the same time. Of the others the undo counts: of two events
that cannot be ordered, the safer one."""
IMPRESSION: Final = len(ACTIONS)
"""The code of an impression, for stores that keep actions as small integers."""

FIRST_SURFACE: Final = 16
"""The smallest code of a surface. Codes 1 … 15 are of an earlier hash, under which most pairs of names met."""
SURFACE_CODES: Final = 256
"""The number of codes, for tables: a history entry has one byte for a code."""


@lru_cache(maxsize=1024)
def surface_code(name: str | None) -> int:
    """The code of a surface, FIRST_SURFACE … 255 by hash; 0 for no surface.

    Five names all have different codes with a probability of 96 %.
    """
    if not name:
        return 0
    return FIRST_SURFACE + xxhash.xxh3_64_intdigest(name.encode()) % (SURFACE_CODES - FIRST_SURFACE)
