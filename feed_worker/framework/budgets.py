"""Time budgets of stages and components.

A budget limits the wall time of one call, in milliseconds:

- of a query hydrator, a source or a scorer: one call for the whole batch, including the retries of its requests one by
  one if the batch fails;
- of a hydrator, a filter or a selector: one call for one request;
- of a side effect: one call for the results of the whole batch;
- of a stage: all its components, for the whole batch.

A component on its own thread (`Component.own_thread`) is given up at the end of its budget, or of its stage's, and has
then failed. Other components cannot be interrupted; their overruns are counted.

The defaults detect a component that hangs, on a machine under any load. They do not make a feed fast: the deadlines of
requests do.
"""

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

Budgets: TypeAlias = Mapping[str, float]
"""Milliseconds by the name of a stage or component. A component without a budget has that of its stage."""

STAGE_BUDGETS_MS: Final[Budgets] = {
    # longer than a Redis client needs to detect a lost server (5 s, 10 tries): the worker then waits for Redis; a Redis
    # that accepts connections and does not answer (2 minutes) fails requests
    "query_hydrator": 15_000,
    "source": 12_000,
    "hydrator": 5_000,
    "filter": 10_000,
    "scorer": 60_000,
    "selector": 5_000,
    "post_selection_filter": 5_000,
    "side_effect": 30_000,
}
"""The default budgets of stages."""

FORYOU_BUDGETS_MS: Final[Budgets] = {
    "thunder_source": 5_000,
    "phoenix_retrieval_source": 8_000,
    "popular_source": 5_000,
    "phoenix_scorer": 50_000,  # 16 viewers with 1,500 candidates each, on two shared cores
}
"""The budgets of optional components of the For You pipeline: less than their stage's, so the others have time left."""


class OverBudget(Exception):
    """A component did not return within its budget."""


def check_budgets(budgets: Budgets, known: Iterable[str]) -> None:
    """Raise ValueError for a budget of an unknown name, or of no more than 0 ms."""
    names = sorted(known)
    if unknown := sorted(set(budgets) - set(names)):
        raise ValueError(f"no stage or component {', '.join(unknown)} to have a budget; there are {', '.join(names)}")
    if timeless := sorted(name for name, budget_ms in budgets.items() if not budget_ms > 0):
        raise ValueError(f"the budget of {', '.join(timeless)} must be more than 0 ms")
