"""Since when a log records each action, as far as the log itself tells.

Apps begin to publish an action when they have it: what a log holds of earlier days is then no sign that nobody acted.
Whoever learns from those days, or counts rates over them, is misled; so this is found out unless somebody says it.
"""

from typing import Any, Final, NamedTuple

import numpy as np

from phoenix.log import Log
from thunder_ingest.events import ACTIONS, ActionName

_SURPRISING: Final = 30.0
"""That an action is missing from some impressions by chance has a probability of e to the minus this, at most."""


class _First(NamedTuple):
    rank: int  # of its impression among all, by time
    action: ActionName
    count: int  # of the action, from there on
    impressions: int  # from there on


def recorded_since(log: Log) -> dict[ActionName, int]:
    """The time, epoch ms, of the first impression that is known to have been watched for an action.

    It is the one after the last stretch of impressions in which the action should have been seen, and was not. Actions
    that were always recorded are left out. Those that begin about together, as far as their rates can tell, are given
    the same time: a rare one is not seen at once.

    Args:
        log: all of it. What is found of its end is no leak, for it says nothing of any viewer or post.

    """
    order = np.argsort(log.at, kind="stable")
    firsts = []
    for action, done in zip(ACTIONS, log.actions[order].T, strict=True):
        ranks = np.flatnonzero(done)
        counts, impressions = np.arange(len(ranks), 0, -1), len(order) - ranks
        without = np.diff(ranks, prepend=-1) - 1
        if len(begun := np.flatnonzero(_surprise(without, counts, impressions) > _SURPRISING)):
            last = begun[-1]
            firsts.append(_First(int(ranks[last]), action, int(counts[last]), int(impressions[last])))
    found: dict[ActionName, int] = {}
    for first, action, count, impressions in sorted(firsts):
        together = (rank for rank in found.values() if _surprise(first - rank, count, impressions) <= _SURPRISING)
        found[action] = min(together, default=first)
    return {action: int(log.at[order[rank]]) for action, rank in found.items()}


def _surprise(without: Any, count: Any, impressions: Any) -> Any:
    """How improbable it is, as a negative logarithm, that of some impressions and those after them, which share `count`
    occurrences, the former have none."""
    return count * np.log1p(without / impressions)
