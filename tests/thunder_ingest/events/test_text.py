import unicodedata

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from thunder_ingest.events.text import (
    MAX_TOKENS,
    packed_tokens,
    packed_tokens_of,
    padded_tokens,
    token_hashes,
    tokenize,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Hello, World!", ["hello", "world"]),
        ("#AstroPhoto by @Ann_B: 3 stars", ["astrophoto", "by", "ann_b", "3", "stars"]),
        ("don't", ["don", "t"]),
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("ﬁne Ｆｕｌｌ ²", ["fine", "full", "2"]),
        ("Cafe\u0301 Café", ["café", "café"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("東京タワー", ["東", "京", "タ", "ワ", "ー"]),
        ("ｶﾞ が", ["ガ", "が"]),
        ("ดีมาก", ["ดี", "ม", "า", "ก"]),
        ("ios18リリース", ["ios18", "リ", "リ", "ー", "ス"]),
        ("spoi\u00adler spoi\u200dler spoi\u2060ler", ["spoiler"] * 3),
        ("👍️👍🏽 ok", ["ok"]),
        ("Ἀθῆναι ΣΟΦΟΣ", ["ἀθῆναι", "σοφοσ"]),
        ("", []),
        ("!?… \u0301", []),
    ],
)
def test_words_of_all_scripts_become_tokens(text: str, tokens: list[str]) -> None:
    assert tokenize(text) == [unicodedata.normalize("NFKC", token) for token in tokens]


@given(texts)
def test_composed_and_decomposed_characters_make_no_difference(text: str) -> None:
    assert tokenize(unicodedata.normalize("NFC", text)) == tokenize(unicodedata.normalize("NFD", text))


@given(texts)
def test_tokens_hold_no_spaces_and_are_their_own_tokens(text: str) -> None:
    tokens = tokenize(text)
    assert all(token and not any(c.isspace() for c in token) for token in tokens)
    assert tokenize(" ".join(tokens)) == tokens


@given(st.text(st.characters(max_codepoint=127), max_size=60))
def test_the_short_way_for_ascii_is_the_long_way(text: str) -> None:
    assert tokenize(text) == tokenize(text + " é")[:-1]


words = st.text(
    st.characters(categories=["L", "N"]), min_size=1, max_size=70
)  # up to and over the 16 bytes of a stripe


@given(texts | st.lists(words).map(" ".join))
def test_hashes_are_those_of_the_tokens_in_order(text: str) -> None:
    expected = [xxhash.xxh32_intdigest(token.encode()) or 1 for token in tokenize(text)]
    assert token_hashes(text).tolist() == expected
    assert token_hashes(text).dtype == np.uint32


@given(st.lists(texts | st.integers(60, 70).map(lambda n: "a " * n), max_size=6))
def test_many_texts_are_hashed_like_each_alone(many: list[str]) -> None:
    assert packed_tokens_of(many) == [token_hashes(text)[:MAX_TOKENS].astype("<u4").tobytes() for text in many]


def test_a_post_keeps_its_first_tokens() -> None:
    text = " ".join(map(str, range(100)))
    rows = padded_tokens([packed_tokens(text), packed_tokens("one two"), b""])
    assert rows.shape == (3, MAX_TOKENS)
    assert rows[0].tolist() == token_hashes(text)[:MAX_TOKENS].tolist()
    assert rows[1].tolist() == [*token_hashes("one two").tolist(), *[0] * 62]
    assert not rows[2].any()
