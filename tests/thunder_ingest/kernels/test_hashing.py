from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from thunder_ingest.kernels.compiled import kernel
from thunder_ingest.kernels.hashing import GOLDEN, splitmix64
from thunder_ingest.kernels.id_table import mix

WORD = 2**64


@kernel
def compiled(value: np.uint64) -> Any:
    return mix(value)


def published(value: int) -> int:
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % WORD
    value = (value ^ value >> 27) * 0x94D049BB133111EB % WORD
    return value ^ value >> 31


def test_a_seed_of_zero_gives_the_published_first_number_of_splitmix64() -> None:
    assert int(splitmix64(np.array([GOLDEN]))[0]) == 0xE220A8397B1DCDAF


@given(st.integers(0, WORD - 1))
def test_numpy_and_the_compiled_function_give_the_same_bits(value: int) -> None:
    assert int(splitmix64(np.array([value], np.uint64))[0]) == published(value)
    assert int(compiled(np.uint64(value))) == published(value)
