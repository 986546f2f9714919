"""Groups of equal consecutive rows in sorted columns.

Glossary of shapes:

    r: rows
    *n: any axes
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Int64


def group_starts(*columns: np.ndarray[Any, Any]) -> Bool[np.ndarray, " r"]:
    """Return True for the first row, and for each row that differs in a column from the row before it.

    Args:
        columns: one or more columns [r], at least one.

    """
    starts = np.ones(len(columns[0]), bool)
    starts[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return starts


def first_not_less(
    column: Int64[np.ndarray, " r"],
    low: Int64[np.ndarray, "*n"],
    high: Int64[np.ndarray, "*n"],
    least: Int64[np.ndarray, "*n"],
) -> Int64[np.ndarray, "*n"]:
    """Return the index of the first row of each group that is not less than a value, by a vectorised binary search.

    Args:
        column: a column that ascends within each group.
        low: index of each group's first row.
        high: index after its last row; the result if all rows are less.
        least: the values.

    """
    while (open_ := low < high).any():
        middle = (low + high) // 2
        less = open_ & (column[np.minimum(middle, len(column) - 1)] < least)
        low, high = np.where(less, middle + 1, low), np.where(open_ & ~less, middle, high)
    return low
