"""The mean of a text depends on its words alone, not on evictions or concurrent calls."""

from concurrent.futures import ThreadPoolExecutor

import haiku as hk
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix.features.inputs import token_rows
from phoenix.models.layers import HashTable
from phoenix.serving.text_cache import Texts

ROWS, WIDTH, LENGTH = 50, 5, 4
WORDS = st.lists(st.integers(0, 6), min_size=LENGTH, max_size=LENGTH)


@pytest.fixture(scope="module")
def table() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)


def averaged(table: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """The means without a cache."""
    rows = token_rows(tokens, len(table))
    return np.array([table[each[each != 0]].sum(axis=0) / max(1, np.count_nonzero(each)) for each in rows])


def as_tokens(texts: list[list[int]]) -> np.ndarray:
    return np.array(texts, np.uint32).reshape(len(texts), LENGTH)


@given(
    st.lists(st.lists(WORDS, max_size=9), max_size=12),
    st.sampled_from([1, 2, 8, 64]),
)
@settings(deadline=None)
def test_a_mean_is_right_for_every_size_of_the_cache(
    table: np.ndarray, requests: list[list[list[int]]], kept: int
) -> None:
    texts = Texts(table, kept)
    for request in requests:
        tokens = as_tokens(request)
        np.testing.assert_allclose(texts.means(tokens), averaged(table, tokens).reshape(-1, WIDTH), atol=1e-6)


@given(st.lists(WORDS, min_size=1, max_size=9))
@settings(deadline=None)
def test_a_cached_text_has_the_same_bits_and_is_no_miss(table: np.ndarray, request: list[list[int]]) -> None:
    texts, tokens = Texts(table), as_tokens(request)
    first, new = texts.means(tokens), texts.new
    np.testing.assert_array_equal(texts.means(tokens[::-1])[::-1], first)
    assert texts.new == new


def test_texts_with_another_order_or_number_of_words_have_their_own_entries(table: np.ndarray) -> None:
    texts = Texts(table)
    variants = as_tokens([[1, 2, 0, 0], [2, 1, 0, 0], [1, 2, 2, 0], [0, 1, 2, 0], [1, 2, 0, 1]])
    for each in variants:
        texts.means(each[None])
    assert texts.new == len(variants)


def test_the_oldest_texts_are_evicted_first(table: np.ndarray) -> None:
    texts = Texts(table, kept=1)
    older, newer = (as_tokens([[word, 0, 0, 0]]) for word in (1, 2))
    for each, new in ((older, 1), (newer, 2), (newer, 2), (older, 3)):
        texts.means(each)
        assert texts.new == new


def test_a_text_without_words_is_zeros_and_is_not_cached(table: np.ndarray) -> None:
    texts = Texts(table)
    assert texts.means(np.zeros((2, 3, LENGTH), np.uint32)).shape == (2, 3, WIDTH)
    assert not texts.means(np.zeros((2, 3, LENGTH), np.uint32)).any()
    assert texts.means(np.zeros((0, LENGTH), np.uint32)).shape == (0, WIDTH)
    assert texts.new == 0


def test_threads_that_evict_each_other_s_texts_get_right_means(table: np.ndarray) -> None:
    texts = Texts(table, kept=16)

    def ask(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(200):
            tokens = rng.integers(0, 4, (20, LENGTH), np.uint32)
            np.testing.assert_allclose(texts.means(tokens), averaged(table, tokens), atol=1e-6)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(ask, range(4)))


def test_the_cache_gives_the_means_of_the_model(table: np.ndarray) -> None:
    tokens = np.random.default_rng(1).integers(0, 90, (30, LENGTH), np.uint32)
    model = hk.transform(lambda rows: HashTable(ROWS, WIDTH, "words").mean(rows))
    mean = model.apply({"words": {"rows": table}}, None, token_rows(tokens, ROWS))
    np.testing.assert_allclose(Texts(table).means(tokens), mean, rtol=1e-6, atol=1e-7)
