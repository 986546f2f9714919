"""The status of each request under any mix of slow, failing and hanging components."""

import time
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Fetched, Filter, QueryFields, QueryHydrator, Scorer, Source
from tests.feed_worker.builders import candidates_in, query
from tests.feed_worker.scripted import BOOM, STORE, Hanging, hanging, pipeline, until_idle

BEHAVIOURS = ("fine", "slow", "failing", "poisoned", "hanging")


class Behaving:
    """Acts by its behaviour; `poisoned` fails for viewer 2 alone. Only components on own threads may hang."""

    may_hang: ClassVar[bool] = True

    def __init__(self, behaviour: str, act: Hanging) -> None:
        self.behaviour, self._act = behaviour, act

    @property
    def name(self) -> str:
        return f"{self.behaviour}_{type(self).__name__}"

    def behave(self, queries: Sequence[Query]) -> None:
        if self.behaviour == "slow":
            time.sleep(0.001)
        if self.behaviour == "failing" or (self.behaviour == "poisoned" and any(q.user_id == 2 for q in queries)):
            raise BOOM
        if self.behaviour == "hanging":
            self._act()

    def fails(self, user_id: int) -> bool:
        return self.behaviour in ("failing", "hanging") or (self.behaviour == "poisoned" and user_id == 2)


class AnyHydrator(Behaving, QueryHydrator):
    def hydrate(self, queries: Sequence[Query], /) -> list[QueryFields]:
        self.behave(queries)
        return [{} for _ in queries]


class SafetyHydrator(AnyHydrator):
    required: ClassVar[bool] = True


class AnySource(Behaving, Source):
    def fetch(self, queries: Sequence[Query], /) -> list[Fetched]:
        self.behave(queries)
        return [Fetched(candidates_in(STORE, 1, 2, 3)) for _ in queries]


class WaitingSource(AnySource):
    waits: ClassVar[bool] = True


class AnyFilter(Behaving, Filter):
    may_hang: ClassVar[bool] = False

    def keep(self, query: Query, candidates: Candidates, /) -> NDArray[np.bool_]:
        self.behave([query])
        return np.ones(len(candidates), np.bool_)


class SafetyFilter(AnyFilter):
    required: ClassVar[bool] = True


class AnyScorer(Behaving, Scorer):
    own_thread: ClassVar[bool] = True

    def score(self, queries: Sequence[Query], candidates: Sequence[Candidates], /) -> list[Candidates]:
        self.behave(queries)
        return list(candidates)


def some_of(*kinds: type[Behaving], least: int = 0) -> st.SearchStrategy[list[tuple[type[Behaving], str]]]:
    """One behaviour for each kind of component."""
    drawn = [(kind, each) for kind in kinds for each in BEHAVIOURS if each != "hanging" or kind.may_hang]
    return st.lists(st.sampled_from(drawn), min_size=least, max_size=3)


@settings(max_examples=60)
@given(
    some_of(AnyHydrator, SafetyHydrator),
    some_of(AnySource, WaitingSource, least=1),
    some_of(AnyFilter, SafetyFilter),
    some_of(AnyScorer),
    st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=3, unique=True),
)
def test_any_mix_of_faults_gives_each_request_the_one_status_of_the_rules(
    hydrators: Any, sources: Any, filters: Any, scorers: Any, users: list[int]
) -> None:
    with hanging() as act:
        made = {
            stage: [kind(behaviour, act) for kind, behaviour in drawn]
            for stage, drawn in (
                ("query_hydrators", hydrators),
                ("sources", sources),
                ("filters", filters),
                ("scorers", scorers),
            )
        }
        components = [each for some in made.values() for each in some]
        budgets = {each.name: 5 for each in components if each.behaviour == "hanging"}
        tested = pipeline(**made, budgets_ms=budgets)
        results = tested.run([query(user_id=user) for user in users])
    until_idle(tested)
    assert [result.query.user_id for result in results] == users
    for user, result in zip(users, results, strict=True):
        failing = [each for each in components if each.fails(user)]
        safe = not any(each.required for each in failing)
        found = not all(each.fails(user) for each in made["sources"])
        expected = "failed" if not (safe and found) else "degraded" if failing else "ok"
        assert result.status == expected
        assert bool(len(result.candidates)) == (expected != "failed")
