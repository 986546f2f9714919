"""Groups of equal consecutive rows in sorted columns.

Glossary of shapes:

    r: rows
"""

from typing import Any

import numpy as np
from jaxtyping import Bool


def group_starts(*columns: np.ndarray[Any, Any]) -> Bool[np.ndarray, " r"]:
    """Return True for the first row, and for each row that differs in a column from the row before it.

    Args:
        columns: one or more columns [r], at least one.

    """
    starts = np.ones(len(columns[0]), bool)
    starts[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return starts
