"""The names of visibility labels, which count without regard to case, blanks and hyphens."""

import unicodedata
from functools import lru_cache
from typing import Final

_OTHER_SEPARATORS: Final = "_\u00ad\u02d7\u2043\u2053\u2212"  # hyphens and minus signs outside the category of dashes


@lru_cache(maxsize=4096)
def label_name(published: str) -> str:
    """The name of a label: `Adult` is `adult`, ` Child  Safety` and `child-safety` are `child_safety`.

    Empty for a label of blanks and hyphens alone.
    """
    folded = unicodedata.normalize("NFKC", published).casefold()
    return "_".join("".join(" " if _separates(each) else each for each in folded).split())


def _separates(character: str) -> bool:
    return character in _OTHER_SEPARATORS or unicodedata.category(character) == "Pd"
