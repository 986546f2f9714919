import numpy as np
import pytest

from phoenix.features.inputs import token_rows
from phoenix.features.stop_words import are_stop_words
from thunder_ingest.events.text import token_hashes


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("What a day for the harbour, and I'll be there", "day harbour"),
        ("Hoy aprendí algo sobre la cocina", "aprendí cocina"),
        ("Ich habe heute über den Hafen gelesen", "hafen gelesen"),
        ("今日の港と船について", "今 日 港 船"),
        ("the of and", ""),
        ("", ""),
    ],
)
def test_models_read_the_words_with_a_topic(text: str, read: str) -> None:
    tokens = token_hashes(text)
    assert tokens[~are_stop_words(tokens)].tolist() == token_hashes(read).tolist()
    assert (token_rows(tokens, 1_000) == 0).tolist() == are_stop_words(tokens).tolist()


def test_the_shape_stays_and_padding_is_no_stop_word() -> None:
    assert are_stop_words(np.zeros((2, 3, 4), np.uint32)).tolist() == np.zeros((2, 3, 4), bool).tolist()
