"""Hash functions of 64-bit integers, for NumPy arrays."""

from typing import Any, Final

import numpy as np

GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
"""2⁶⁴ divided by the golden ratio: multiplier of Fibonacci hashing (Knuth, TAOCP 3, 6.4) and step of SplitMix64."""


def splitmix64(values: Any) -> Any:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): a bijection in which each bit depends on all bits.

    Args:
        values: uint64, an array of any shape or a scalar.

    """
    mixed = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
