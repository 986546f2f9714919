"""Dictionary encoding of labels and languages: small integers for columns, given at first sight, never changed."""

from collections.abc import Iterable
from typing import Final

import numpy as np
from jaxtyping import Int64

from thunder_ingest.events.labels import label_name
from thunder_ingest.events.languages import UNKNOWN, primary_language

LABELS: Final = 64
LANGUAGES: Final = 1 << 16
OTHER_LABEL: Final = "other"


class LabelBits:
    """A bit for each visibility label: 63 labels have their own, later ones share the last.

    A query for a label that shares the last bit also finds posts with the other labels of that bit. A filter then hides
    too many posts, never too few.
    """

    def __init__(self) -> None:
        self._bits: dict[str, int] = {}

    def mask(self, names: Iterable[str]) -> int:
        """The bits of some labels."""
        mask = 0
        for name in names:
            mask |= 1 << self._bit(name)
        return mask

    @property
    def known(self) -> list[str]:
        """The labels with a bit of their own; any thread may read."""
        return list(self._bits)

    def names(self, mask: int) -> list[str]:
        """The labels of some bits, in order of the bits; `other` stands for all labels of the last bit."""
        own = [name for name, bit in self._bits.items() if mask >> bit & 1]
        return [*own, OTHER_LABEL] if mask >> (LABELS - 1) & 1 else own

    def _bit(self, published: str) -> int:
        name = label_name(published)
        if name not in self._bits and len(self._bits) < LABELS - 1:
            self._bits[name] = len(self._bits)
        return self._bits.get(name, LABELS - 1)


class LanguageCodes:
    """A code for each language tag; 0 is no language, or any tag after the first 65,535."""

    def __init__(self) -> None:
        self._codes = {"": 0}
        self._names = [""]
        self._by_language: dict[str, list[int]] = {UNKNOWN: [0]}

    def code(self, name: str) -> int:
        """The code of a published language tag."""
        if name not in self._codes and len(self._names) < LANGUAGES:
            self._codes[name] = len(self._names)
            self._by_language.setdefault(primary_language(name), []).append(len(self._names))
            self._names.append(name)
        return self._codes.get(name, 0)

    def name(self, code: int) -> str:
        """The language tag of a code."""
        return self._names[code]

    def codes_in(self, tags: Iterable[str]) -> Int64[np.ndarray, " n"]:
        """The codes, ascending, of all tags with the primary language of one of these, and of unknown languages."""
        languages = {UNKNOWN, *map(primary_language, tags)}
        codes = [code for language in languages for code in self._by_language.get(language, ())]
        return np.sort(np.array(codes, np.int64))
