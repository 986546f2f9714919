"""The names of visibility labels, which count without regard to case and blanks."""

import unicodedata
from functools import lru_cache


@lru_cache(maxsize=4096)
def label_name(published: str) -> str:
    """The name of a label: `Adult` is `adult`, ` Child  Safety` is `child_safety`; empty for blanks alone."""
    return "_".join(unicodedata.normalize("NFKC", published).casefold().split())
