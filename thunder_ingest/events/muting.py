"""Text as a muted keyword is compared with it: words as readers see them, and groups of signs.

The models' tokens (`text`) differ: trained models depend on them, so they keep what the comparison ignores. The cut of
a keyword and of a text is the same:
- Characters that are not visible are removed: Unicode's default-ignorable characters, controls, lines through a letter.
- A word is a token of the normalised, case-folded text (NFKC). Case includes the Turkish one: `İ`, `I`, `ı` and `i` are
  one letter. Accents are removed; a text with accents keeps its words with them, too.
- A part of a word beside an apostrophe is a word of its own unless it is short: `Bob's` contains `Bob`, `l'IA` contains
  `IA`, but `j'ai` does not contain `ai`, and `don't` does not contain `don`.
- A group is a run without spaces that has signs: emoji, emoticons, `$$$`, `C++`. Ordinary punctuation is no sign: one
  mark between two words or alone, brackets, quotes, `#` or `@` before a word, brackets, quotes and one mark after it.
  An emoji is one sign with all its parts; skin tone, gender and presentation make no difference.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt32

from thunder_ingest.events.text import MARKS, TOKEN, hashed_words, ranges, tokens_of

# --- characters ----------------------------------------------------------------------------------------------------

_DEFAULT_IGNORABLE: Final = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_CONTROLS: Final = "\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"  # the others separate words
_DRAWN_THROUGH: Final = (  # lines over, under and through letters, and frames around them
    "\u0305\u0332-\u0338\u033f\u0488\u0489\u1abe\u20d2\u20d3\u20d8-\u20da\u20dd-\u20e0\u20e2-\u20e6\u20ea\u20eb\ua670-\ua672"
)
_BLANK: Final = "\ufdd0-\ufdef\ufff9-\ufffc\U0001d159"  # noncharacters, annotation marks, a note without a head
_INVISIBLE: Final = re.compile(f"[{_DEFAULT_IGNORABLE}{_CONTROLS}{_DRAWN_THROUGH}{_BLANK}]+")
_BLANK_PATTERN: Final = "\u2800"  # of Braille: it has the width of a letter, so it separates words

_ACCENT: Final = re.compile(
    "[\u0300-\u0305\u0307-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670"
    "\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]"
    "|(?<!и)\u0306"  # и with a breve is another letter
)
_STROKES: Final = dict(zip("øłđħŧæœðþ", ("o", "l", "d", "h", "t", "ae", "oe", "d", "th"), strict=True))
_STROKE: Final = re.compile(f"[{''.join(_STROKES)}]")

_WORD: Final = rf"[\w{MARKS}]"
_APOSTROPHE: Final = re.compile(rf"['’‘‛ʼʻʹ՚＇´`′](?<={_WORD}.)(?={_WORD})")
_WITH_APOSTROPHE: Final = re.compile(rf"(?<!{_WORD}){_WORD}++(?:'{_WORD}++)+")
_CUT: Final = "ʼ"  # a letter for Unicode: `TOKEN` keeps it
_ARTICLES: Final = frozenset("ld")
_PRONOUNS: Final = frozenset("jtmnsc")
_OWN_WORD: Final = 3
"""A part of this length after an apostrophe is a word of its own in any case."""

# punctuation that a sentence needs; all other punctuation, and every symbol, is a sign wherever it stands
_POINTS: Final = ".,!?。，、！？؟،।॥"
_CLOSERS: Final = ")]}\"'»›”’“‘」』】〉》*_-‐‑–—"
_OPENERS: Final = frozenset("#@([{\"'«‹“‘„‚”’「『【〈《¿¡*_-‐‑–—")
_PUNCTUATION: Final = frozenset({*_POINTS, *_CLOSERS, *_OPENERS, *":;/\\&·・•…؛"})
_CLOSING: Final = re.compile(f"[{re.escape(_CLOSERS)}]*(?:[{_POINTS}][{re.escape(_CLOSERS)}]*|[:;؛])?")
_ADDRESS: Final = re.compile(r"\w+://\S+|www\.\S+")
_SIGN: Final = re.compile(rf"[^\w\s{MARKS}]+")
_FIRST_TAIL: Final = 0xF0000
_ELEMENT: Final = re.compile(
    rf"{TOKEN.pattern}|[^\w\s{MARKS}][\U000f0000-\U0010ffff]*"  # a private character: a further part of an emoji
)
_BETWEEN: Final = "\x00"  # it is removed from texts, so no element is equal to it


# --- the cut -------------------------------------------------------------------------------------------------------


class Cut(NamedTuple):
    """The words of a text and its groups of signs, each an element a string."""

    words: list[str]  # without accents
    accented: list[str]  # the words with accents
    groups: list[list[str]]


def cut(text: str) -> Cut:
    """Cut a text, or a keyword."""
    seen = _as_seen(text)
    folded = seen if seen.isascii() else _without_accents(seen)
    words = tokens_of(folded)
    return Cut(words, words if folded is seen else tokens_of(seen), _groups(folded))


@lru_cache(maxsize=1 << 16)
def identity(keyword: str) -> str:
    """The text that equal keywords have in common: case, Unicode forms and invisible characters make no difference."""
    _, words, groups = cut(keyword)
    return "\n".join(map(" ".join, [words, *groups])) or keyword


def is_empty(keyword: str) -> bool:
    """True if no text can contain the keyword."""
    words, _, groups = cut(keyword)
    return not words and not groups


def _as_seen(text: str) -> str:
    """The text normalised and case folded, without what is invisible, with its apostrophes decided."""
    is_ascii = text.isascii()
    if not is_ascii and _MAY_BE.search(text):
        text = _pictures().sub(_one_sign, text).replace(_BLANK_PATTERN, " ")
    text = _APOSTROPHE.sub("'", _INVISIBLE.sub("", text))
    if not is_ascii:
        text = unicodedata.normalize("NFKC", text)
    if "'" in text:
        text = _WITH_APOSTROPHE.sub(_parts, text)
    if text.isascii():
        return text.lower()
    # folding may undo the normalisation, hence a second one
    text = unicodedata.normalize("NFKC", text.casefold())
    return text.replace("i\u0307", "i").replace("ı", "i")


def _without_accents(text: str) -> str:
    """The same object for a text without accents."""
    found, accents = _ACCENT.subn("", unicodedata.normalize("NFD", text))
    found, strokes = _STROKE.subn(lambda match: _STROKES[match[0]], found)
    return unicodedata.normalize("NFKC", found) if accents or strokes else text


def _parts(match: re.Match[str]) -> str:
    """The parts of a word with apostrophes; a part that is no word of its own keeps a mark on that side."""
    parts = match[0].split("'")
    marked = list(parts)
    for place, (left, right) in enumerate(pairwise(parts)):
        before, after = left.casefold(), right.casefold()
        is_negation = after == "t" and before.endswith("n")
        if is_negation or (len(left) == 1 and after != "s"):
            marked[place] += _CUT
        in_capitals = right.isupper() and (before in _ARTICLES or (left.islower() and before not in _PRONOUNS))
        if len(right) < _OWN_WORD and not in_capitals:
            marked[place + 1] = _CUT + marked[place + 1]
    return " ".join(marked)


def _groups(text: str) -> list[list[str]]:
    if not _SIGN.search(text):
        return []
    signs = _SIGN.sub(_without_punctuation, _ADDRESS.sub(" ", text) if "//" in text or "www." in text else text)
    return [_ELEMENT.findall(chunk) for chunk in signs.split() if _SIGN.search(chunk)] if _SIGN.search(signs) else []


def _without_punctuation(match: re.Match[str]) -> str:
    """A run of signs; a space if it is ordinary punctuation where it stands."""
    signs, text = match[0], match.string
    follows = not text[match.start() - 1 : match.start()].isspace() and match.start() > 0
    leads = not text[match.end() : match.end() + 1].isspace() and match.end() < len(text)
    if follows == leads:
        is_ordinary = len(signs) == 1 and signs in _PUNCTUATION
    else:
        is_ordinary = _OPENERS.issuperset(signs) if leads else _CLOSING.fullmatch(signs) is not None
    return " " if is_ordinary else signs


# --- emoji ---------------------------------------------------------------------------------------------------------

_JOINER: Final = "\u200d"
_ANY: Final = "\U0001f51f"  # the keycap ten: the head of emoji whose own first character is a letter for NFKC
_DROPPED: Final = re.compile("[\ufe0e\ufe0f\u20e3\U0001f3fb-\U0001f3ff]|\u200d[♀♂]\ufe0f?")


_MAY_BE: Final = re.compile("[\u00a9\u00ae\u203c\u2049\u20e3\u2120-\u213a\u2190-\u32ff\U0001f000-\U0001faff]")


@cache
def _pictures() -> re.Pattern[str]:
    blocks = (*range(0x2190, 0x3300), *range(0x1F000, 0x1FB00))
    symbols = [c for c in blocks if unicodedata.category(chr(c)) == "So" and not 0x1F1E6 <= c <= 0x1F1FF]
    is_kept = {c: unicodedata.is_normalized("NFKC", chr(c)) for c in symbols}
    always, letters = (ranges(c for c in symbols if is_kept[c] is kept) for kept in (True, False))
    one = f"(?:[{always}\u2120\u2122\u00a9\u00ae]|[{letters}\u2139\u203c\u2049]\ufe0f)"
    one += "[\ufe0e\ufe0f\U0001f3fb-\U0001f3ff]*"
    flag = "[\U0001f1e6-\U0001f1ff]{2}|\U0001f3f4[\U000e0020-\U000e007e]+\U000e007f"
    joined = f"{one}(?:{_JOINER}(?:{one}|[♀♂]\ufe0f?))*"
    return re.compile(f"{flag}|[0-9#*]\ufe0f?\u20e3|{joined}")


def _one_sign(match: re.Match[str]) -> str:
    """An emoji as one character, with private characters for its further parts: NFKC keeps them all."""
    parts = _DROPPED.sub("", match[0]).replace(_JOINER, "") or match[0]
    head = parts[0] if unicodedata.category(parts[0]) == "So" and unicodedata.is_normalized("NFKC", parts[0]) else _ANY
    tail = parts if head == _ANY else parts[1:]
    return head + "".join(chr(_FIRST_TAIL + ord(c) % 0x1FFFE) for c in tail)


# --- hashed --------------------------------------------------------------------------------------------------------


class Unusual(NamedTuple):
    """The texts whose comparison needs more than the models' tokens, and their streams, one after another.

    A stream has the words, then each group, then the words with accents if they differ, with a separator between.
    """

    places: Int64[np.ndarray, " k"]
    tokens: UInt32[np.ndarray, " t"]
    lengths: Int64[np.ndarray, " k"]


def unusual(
    raw: UInt8[np.ndarray, " bytes"],
    begins: Int64[np.ndarray, " n"],
    lengths: Int64[np.ndarray, " n"],
    is_long: Bool[np.ndarray, " n"],
) -> Unusual:
    """The streams of those UTF-8 texts in `raw` that are long, or not plain: ASCII words with ordinary punctuation."""
    from thunder_ingest.events.word_hashes import find_unusual

    is_unusual = np.empty(len(begins), np.bool_)
    find_unusual(raw, begins, lengths, is_unusual)
    places = np.flatnonzero(is_unusual | is_long)
    spans = zip(begins[places].tolist(), (begins + lengths)[places].tolist(), strict=True)
    return Unusual(places, *streams([raw[begin:end].tobytes().decode() for begin, end in spans]))


def streams(texts: Sequence[str]) -> tuple[UInt32[np.ndarray, " t"], Int64[np.ndarray, " n"]]:
    """The hashed streams of texts, one after another, and the length of each."""
    return hashed_words([_stream(cut(text)) for text in texts])


def _stream(found: Cut) -> bytes:
    accented = [] if found.accented == found.words else [found.accented]
    return f" {_BETWEEN} ".join(map(" ".join, [found.words, *found.groups, *accented])).encode()


class Phrases(NamedTuple):
    """Muted keywords for a compiled search: each is some phrases that a text must all contain.

    The phrases are in order of their first token.
    """

    first: UInt32[np.ndarray, " p"]
    begin: Int64[np.ndarray, " p"]  # of the phrase in `tokens`
    length: Int64[np.ndarray, " p"]
    keyword: Int64[np.ndarray, " p"]
    needed: Int64[np.ndarray, " k"]  # phrases of each keyword
    tokens: UInt32[np.ndarray, " t"]


@lru_cache(maxsize=1 << 12)
def phrases_of(keywords: tuple[str, ...], ignore_accents: bool) -> Phrases:
    """The phrases of keywords.

    Args:
        keywords: as users wrote them; those without a word or sign are left out.
        ignore_accents: False for keywords that contain accents to match only words with these accents.

    """
    phrases, owners, needed = list[UInt32[np.ndarray, " w"]](), list[int](), list[int]()
    for keyword in keywords:
        own = _hashed_keyword(keyword, ignore_accents)
        if own:
            phrases += own
            owners += [len(needed)] * len(own)
            needed.append(len(own))
    order = sorted(range(len(phrases)), key=lambda place: int(phrases[place][0]))
    length = np.array([len(phrases[place]) for place in order], np.int64)
    return Phrases(
        first=np.array([phrases[place][0] for place in order], np.uint32),
        begin=np.cumsum(length) - length,
        length=length,
        keyword=np.array([owners[place] for place in order], np.int64),
        needed=np.array(needed, np.int64),
        tokens=np.concatenate([np.zeros(0, np.uint32), *(phrases[place] for place in order)]),
    )


@lru_cache(maxsize=1 << 16)
def _hashed_keyword(keyword: str, ignore_accents: bool) -> list[UInt32[np.ndarray, " w"]]:
    words, accented, groups = cut(keyword)
    distinct = dict.fromkeys(" ".join(each) for each in [words if ignore_accents else accented, *groups] if each)
    return [hashed_words([each.encode()])[0] for each in distinct]
