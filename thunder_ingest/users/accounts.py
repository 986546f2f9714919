"""The status of accounts: the newest event of an account counts, at equal times the more restricted status."""

from collections.abc import Iterable
from typing import Final

import numpy as np
from jaxtyping import Int64

from thunder_ingest.events import ACCOUNT_STATUSES, AccountState

_RANKS: Final = {status: rank for rank, status in enumerate(ACCOUNT_STATUSES)}


class AccountTable:
    """The status of all accounts that had an `account` event; other accounts are active.

    Order and duplicates of events make no difference. One thread writes; any thread may read `inactive`.

    Attributes:
        inactive: sorted ids of the accounts that are not active; replaced as a whole.

    """

    def __init__(self) -> None:
        self._states: dict[int, tuple[int, int]] = {}  # time and rank
        self.inactive: Int64[np.ndarray, " n"] = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._states)

    def apply(self, states: Iterable[AccountState]) -> list[AccountState]:
        """Apply states in any order; returns the new state of each account that has changed.

        Raises:
            ValueError: an id is no int64; the states before it are applied.

        """
        changed: dict[int, AccountState] = {}
        for state in states:
            if state.user_id.bit_length() > 63:
                raise ValueError(f"{state.user_id} is no int64")
            key = state.at, _RANKS[state.status]
            if key > self._states.get(state.user_id, (0, 0)):
                self._states[state.user_id], changed[state.user_id] = key, state
        if changed:
            self.inactive = np.array(sorted(id_ for id_, (_, rank) in self._states.items() if rank), np.int64)
        return list(changed.values())
