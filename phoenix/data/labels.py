"""Estimate of the time from which on a log records each action.

Apps publish an action only from the release of that feature on. In older rows the absence of the action is then an
unknown label, not a negative. Training and rates must leave those rows out, so the start of each action is estimated
from the log, unless the user gives it.
"""

from typing import Any, Final, NamedTuple

import numpy as np

from phoenix.data.impressions import Log
from thunder_ingest.events import ACTIONS, ActionName

_SURPRISING: Final = 20.0
"""Significance of a gap: its probability under a constant rate is at most e to the minus this."""


class _First(NamedTuple):
    rank: int  # rank by time, among all impressions, of the action's first recorded impression
    action: ActionName
    times: int  # occurrences of the action from there on
    impressions: int  # impressions from there on


def recorded_since(log: Log) -> dict[ActionName, int]:
    """Return the estimated start of the recording of each action, epoch ms; without actions recorded in the whole log.

    The start is the first occurrence after the last significant gap: a stretch of impressions in which the action's
    later rate makes its absence improbable. Actions whose starts do not differ significantly get the same start,
    because the first occurrence of a rare action is late.

    Args:
        log: the whole log. Its end is no leakage, because the result contains nothing about single viewers or posts.

    """
    order = np.argsort(log.at, kind="stable")
    firsts = []
    for action, done in zip(ACTIONS, log.actions[order].T, strict=True):
        ranks = np.flatnonzero(done)
        times, rest = np.arange(len(ranks), 0, -1), len(order) - ranks
        without = np.diff(ranks, prepend=-1) - 1
        if len(begun := np.flatnonzero(_surprise(without, times, rest) > _SURPRISING)):
            last = begun[-1]
            firsts.append(_First(int(ranks[last]), action, int(times[last]), int(rest[last])))
    found: dict[ActionName, int] = {}
    for rank, action, seen, impressions in sorted(firsts):
        together = (other for other in found.values() if _surprise(rank - other, seen, impressions) <= _SURPRISING)
        found[action] = min(together, default=rank)
    return {action: int(log.at[order[rank]]) for action, rank in found.items()}


def _surprise(without: Any, times: Any, impressions: Any) -> Any:
    """Return the negative log-probability of a gap of `without` impressions, given the later rate of the action.

    The later rate is `times` occurrences in `impressions` impressions. Surprise of k occurrences in n impressions after
    a gap of g impressions: k · ln(1 + g / n).
    """
    return times * np.log1p(without / impressions)
