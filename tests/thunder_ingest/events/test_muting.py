import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thunder_ingest.events.muting import cut, identity, is_empty, phrases_of, streams, unusual
from thunder_ingest.events.text import token_hashes, tokenize

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
marked = st.text(st.sampled_from("ab'’-.,:;!?()#@\"$<3+% \n\té😂\u200b"), max_size=40)
plain = st.lists(st.sampled_from(["Cat", "#cat", "a_b", "word,", "(so)", "x-y", "end.", '"q"', "1/2", "-", "why?"]))


def hides(keyword: str, text: str, ignore_accents: bool = True) -> bool:
    """Apply the rule to lists of words, without hashes."""
    wanted, found = cut(keyword), cut(text)
    words = wanted.words if ignore_accents else wanted.accented
    parts = [found.words, found.accented, *found.groups]
    phrases = [phrase for phrase in (words, *wanted.groups) if phrase]
    return bool(phrases) and all(
        any(part[i : i + len(phrase)] == phrase for part in parts for i in range(len(part))) for phrase in phrases
    )


@pytest.mark.parametrize(
    "text",
    [
        "ca\u200bsino",  # zero width space
        "ca\u202asi\u202cno",  # embedding
        "ca\u2066si\u2069no",  # isolate
        "c\U000e0100asino",  # variation selector
        "ca\ufe0fsino",
        "ca\u3164sino",  # fillers
        "ca\uffa0sino",
        "ca\u115fsino",
        "ca\u180esino",
        "ca\u034fsino",
        "ca\U0001d173sino",  # musical control
        "ca\U000e0041sino",  # tag
        "ca\xadsino",
        "ca\x00sino",
        "ca\x08sino",
        "ca\x9fsino",
        "ca\ufeffsino",
        "ca\u2064sino",
        "ca\u061csino",
        "c\u0336a\u0336s\u0336i\u0336n\u0336o\u0336",  # struck through
        "c\u0332a\u0332sino",
        "c\u20dda\u20ddsino",
        "ｃａｓｉｎｏ",
        "ⓒⓐⓢⓘⓝⓞ",
        "𝖈𝖆𝖘𝖎𝖓𝖔",
        "casino™",
        "casino😀",
        "\u3316" * 11 + " casino",
        "\ufdfa" * 50 + " casino",
    ],
)
def test_what_is_invisible_or_grows_hides_no_word(text: str) -> None:
    assert hides("casino", text)
    assert hides(text.replace("™", "").strip("\u3316\ufdfa 😀"), "a Casino!")
    assert not hides("cas", text)


@pytest.mark.parametrize(
    ("keyword", "hidden", "shown"),
    [
        ("😂", ["so 😂", "😂😂", "ha😂!"], ["😄", "", ":D"]),
        ("👍", ["👍🏽 ok", "👍\ufe0f"], ["👎"]),
        ("❤", ["❤\ufe0f", "I ❤ you"], ["❤\ufe0f\u200d🔥", "💔"]),
        ("❤\ufe0f", ["❤"], []),
        ("👩\u200d💻", ["a 👩🏽\u200d💻"], ["👩", "💻", "👩 💻"]),
        ("🤷", ["🤷\u200d♀\ufe0f", "🤷🏽\u200d♂"], []),
        ("🇩🇪", ["in 🇩🇪!", "🇩🇪🇫🇷", "🇫🇷🇩🇪"], ["🇧🇩🇪🇸", "🇩 🇪", "DE"]),
        ("🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", [], ["🏴", "🏴 gbeng"]),
        ("3\ufe0f\u20e3", ["3\u20e3"], ["3 cats", "4\ufe0f\u20e3"]),
        ("ℹ\ufe0f", ["ℹ\ufe0f here"], ["i am"]),
        (":(", ["sad :(", "oh:(", ":((", ">:("], [": (", "note: (see this)", ":)", "(:"]),
        (":)", ["ok :)", "ok:)"], ["(as said):", "a) b:"]),
        ("$$$", ["$$$", "$$$$", "earn $$$!", "a$$$b"], ["$$", "$ $ $", "$"]),
        ("<3", ["<3", "i <3 u", "love<3", "</ <3"], ["3 cats", "< 3", "<30", "3<"]),
        (":D", ["lol :D"], ["vitamin D", "D:"]),
        ("C++", ["C++", "in c++, yes", "(C++)"], ["vitamin C", "C+", "c"]),
        ("C#", ["C# rocks"], ["C", "#C"]),
        ("$TSLA", ["buy $tsla"], ["tsla"]),
        ("50%", ["at 50% off"], ["50 cats"]),
        ("...", ["well...", "and ..."], ["a. b. c."]),
        ("I ❤ NY", ["i ❤ ny"], ["I live in NY ❤", "I NY"]),
        ("#cat", ["cat", "#Cat"], ["concat"]),
        ("^^", ["hi ^^"], ["^"]),
    ],
)
def test_emoji_and_signs_hide_what_contains_them(keyword: str, hidden: list[str], shown: list[str]) -> None:
    assert not is_empty(keyword)
    assert [text for text in [keyword, *hidden] if not hides(keyword, text)] == []
    assert [text for text in shown if hides(keyword, text)] == []


@pytest.mark.parametrize(
    "keyword", ["?", ".", "-", "#", "@", "&", "\u200b", "\u3164", " ", "\u0301", "( )", "\ufe0f", "\x00"]
)
def test_a_keyword_of_ordinary_punctuation_or_of_nothing_is_empty(keyword: str) -> None:
    assert is_empty(keyword)


@pytest.mark.parametrize("apostrophe", "'’ʼ＇`´")
def test_a_short_part_beside_an_apostrophe_is_no_word(apostrophe: str) -> None:
    def with_it(text: str) -> str:
        return text.replace("'", apostrophe)

    for keyword, hidden, shown in [
        ("AI", ["l'AI", "d'AI", "AI's", "AI'll"], ["j'ai faim", "J'AI FAIM", "je n'ai rien", "l'ai", "t'ai"]),
        ("Bob", ["Bob's", "Bob'll"], ["Bobs"]),
        ("X", ["X's"], []),
        ("don", ["Don", "Don's"], ["don't", "DON'T"]),
        ("re", ["re: you"], ["you're"]),
        ("s", ["s"], ["it's"]),
        ("c", ["C"], ["c'est"]),
        ("istanbul", ["İstanbul'da"], []),
        ("amour", ["l'amour"], []),
        ("italie", ["d'Italie"], []),
        ("j'ai faim", ["Oh, j'ai faim!"], ["ai faim"]),
        ("don't", ["I don't"], ["don t", "Don"]),
        ("o'brien", ["O'Brien's"], ["o b"]),
        ("brien", ["O'Brien"], []),
    ]:
        assert [text for text in hidden if not hides(with_it(keyword), with_it(text))] == []
        assert [text for text in shown if hides(with_it(keyword), with_it(text))] == []


ALIKE = [
    ("istanbul", "İstanbul"),
    ("ısparta", "ISPARTA"),
    ("isparta", "ısparta"),
    ("DİYARBAKIR", "diyarbakır"),
    ("straße", "STRASSE"),
    ("σοφός", "ΣΟΦΌΣ"),
    ("Café", "Cafe\u0301"),
    ("ﬁne", "fine"),
    ("ka\u200bt", "kat"),
    ("l’amour", "l'amour"),
    ("أحمد", "ا\u0654حمد"),
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_spellings_that_readers_take_for_one_word_are_one_keyword(one: str, other: str) -> None:
    assert identity(one) == identity(other)
    for ignore_accents in (True, False):
        assert hides(one, f"oh, {other}!", ignore_accents)
        assert hides(other, f"oh, {one}!", ignore_accents)


@pytest.mark.parametrize(
    ("bare", "accented"),
    [
        ("cafe", "café"),
        ("expedition", "Expédition"),
        ("αθηνα", "Αθήνα"),
        ("كتاب", "كِتَاب"),
        ("lodz", "Łódź"),
        ("ærø", "aero"),
    ],
)
def test_accents_count_only_where_a_parameter_asks_for_it(bare: str, accented: str) -> None:
    assert hides(bare, accented)
    assert hides(accented, bare)
    assert identity(bare) != identity(accented)
    if bare.isascii():
        assert hides(bare, accented, ignore_accents=False)
        assert not hides(accented, bare, ignore_accents=False)


@pytest.mark.parametrize(("one", "other"), [("が", "か"), ("мой", "мои"), ("में", "म"), ("ดี", "ด"), ("한", "하")])
def test_marks_that_make_another_letter_are_no_accents(one: str, other: str) -> None:
    assert cut(one).words != cut(other).words


@given(texts)
def test_unicode_forms_make_no_difference(text: str) -> None:
    assert cut(unicodedata.normalize("NFC", text)) == cut(unicodedata.normalize("NFD", text))
    assert cut(text + "\u200b") == cut(text)


@given(texts | marked)
def test_a_keyword_hides_itself_unless_it_is_refused(text: str) -> None:
    assert hides(text, text) is not is_empty(text)


@given(st.lists(texts | marked | plain.map(" ".join), max_size=6))
def test_only_texts_that_differ_from_their_tokens_have_a_stream(many: list[str]) -> None:
    encoded = [text.encode() for text in many]
    lengths = np.array([len(each) for each in encoded], np.int64)
    raw = np.frombuffer(b"--" + b"".join(encoded), np.uint8)
    found = unusual(raw, 2 + np.cumsum(lengths) - lengths, lengths, np.zeros(len(many), np.bool_))
    tokens, sizes = streams([many[place] for place in found.places])
    assert (found.tokens.tolist(), found.lengths.tolist()) == (tokens.tolist(), sizes.tolist())
    for place in {*range(len(many))} - {*found.places.tolist()}:
        assert streams([many[place]])[0].tolist() == token_hashes(many[place]).tolist()
        assert cut(many[place]).groups == []


@given(plain)
def test_ordinary_sentences_have_no_stream(words: list[str]) -> None:
    text = " ".join(words).encode()
    raw = np.frombuffer(text, np.uint8)
    found = unusual(raw, np.zeros(1, np.int64), np.array([len(text)]), np.zeros(1, np.bool_))
    assert found.places.tolist() == []


@given(st.text(st.characters(categories=["Lu", "Ll", "Nd", "Zs"], max_codepoint=0x5FF), max_size=40))
def test_words_of_ordinary_texts_are_the_models_words(text: str) -> None:
    assert len(cut(text).accented) == len(tokenize(text))


def test_phrases_are_in_order_of_their_first_token() -> None:
    phrases = phrases_of(("b c", "?", "😂 b", "a"), True)
    assert phrases.first.tolist() == sorted(phrases.first.tolist())
    assert sorted(phrases.needed.tolist()) == [1, 1, 2]
    assert len(phrases.tokens) == phrases.length.sum() == 5
