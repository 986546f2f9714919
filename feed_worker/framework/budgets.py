"""How long each stage and component may take before the worker goes on without it.

A budget counts the wall time of one call, in milliseconds:

- of a query hydrator, a source, or a scorer: a call works on the whole batch, so its budget is for the batch, however
  many requests that holds, and for trying the batch again one request at a time where it failed;
- of a hydrator, a filter or a selector: a call works on one request;
- of a side effect: a call works on the results of the whole batch;
- of a stage: all its components, for the whole batch.

Components that run on a thread of their own (`Component.own_thread`) are given up when their budget, or what is left of
their stage's, is over: they have failed. All others cannot be interrupted; that they took longer is counted.

The defaults find out what hangs, on a machine however loaded. They are not what makes a feed fast: that is the
requests' deadlines.
"""

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

Budgets: TypeAlias = Mapping[str, float]
"""Stage or component name → milliseconds. A component that is not named has its stage's time."""

STAGE_BUDGETS_MS: Final[Budgets] = {
    # longer than a Redis client takes to find that its server is gone (5 s, after 10 tries): that is no failure but the
    # worker's to wait for; a Redis that takes connections and does not answer (2 minutes) fails requests
    "query_hydrator": 15_000,
    "source": 12_000,
    "hydrator": 5_000,
    "filter": 10_000,
    "scorer": 60_000,
    "selector": 5_000,
    "post_selection_filter": 5_000,
    "side_effect": 30_000,
}
"""The stages' budgets where a pipeline is given no others."""

FORYOU_BUDGETS_MS: Final[Budgets] = {
    "thunder_source": 5_000,
    "phoenix_retrieval_source": 8_000,
    "popular_source": 5_000,
    "phoenix_scorer": 50_000,  # 16 viewers with 1,500 candidates each, on two cores that others use as well
}
"""Of the For You pipeline's components, those that a feed can do without: others then have time left in their stage."""


class OverBudget(Exception):
    """A component did not answer in time."""


def check_budgets(budgets: Budgets, known: Iterable[str]) -> None:
    """Raise ValueError for a budget of something that there is not, or of no time at all."""
    names = sorted(known)
    if unknown := sorted(set(budgets) - set(names)):
        raise ValueError(f"no stage or component {', '.join(unknown)} to have a budget; there are {', '.join(names)}")
    if timeless := sorted(name for name, budget_ms in budgets.items() if not budget_ms > 0):
        raise ValueError(f"the budget of {', '.join(timeless)} must be more than 0 ms")
