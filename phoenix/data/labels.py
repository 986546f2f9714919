"""Since when a log records each action, as far as the log itself tells.

Apps begin to publish an action when they have it: what a log holds of earlier days is then no sign that nobody acted.
Whoever learns from those days, or counts rates over them, is misled; so this is found out unless somebody says it.
"""

from typing import Any, Final, NamedTuple

import numpy as np

from phoenix.data.impressions import Log
from thunder_ingest.events import ACTIONS, ActionName

_SURPRISING: Final = 20.0
"""That an action is missing from some impressions by chance has a probability of e to the minus this, at most."""


class _First(NamedTuple):
    rank: int  # of its impression among all, by time
    action: ActionName
    times: int  # that the action was seen, from there on
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
    """The negative logarithm of how probable it is that impressions lack what was seen so many times in those after."""
    return times * np.log1p(without / impressions)
