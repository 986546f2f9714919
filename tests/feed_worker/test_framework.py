import logging
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from feed_worker.candidates import Candidates
from feed_worker.components import Component, Filter, Hydrator, QueryHydrator, Scorer, Selector, SideEffect, Source
from feed_worker.framework import Pipeline, Result
from feed_worker.query import Query
from feed_worker.selectors.top_k import TopKSelector
from tests.feed_worker.builders import NOW_MS, candidates_in, post, query, store_of

STORE = store_of(*(post(i, created_at=NOW_MS - i) for i in range(1, 7)))
BOOM = RuntimeError("boom")


class Recording(QueryHydrator):
    def __init__(self) -> None:
        self.batches: list[int] = []

    def hydrate(self, queries: Sequence[Query], /) -> None:
        self.batches.append(len(queries))


class OneToSix(Source):
    def fetch(self, queries: Sequence[Query], /) -> list[Candidates]:
        return [candidates_in(STORE, 1, 2, 3, 4, 5, 6) for _ in queries]


class PoisonedSource(Source):
    """Cannot stand user 13."""

    def fetch(self, queries: Sequence[Query], /) -> list[Candidates]:
        if any(each.user_id == 13 for each in queries):
            raise BOOM
        return [candidates_in(STORE, 1, 2) for _ in queries]


class EvenFilter(Filter):
    def keep(self, _query: Query, candidates: Candidates, /) -> NDArray[np.bool_]:
        return np.asarray(candidates.posts.post_id % 2 == 0)


class ScriptedFilter(Filter):
    def __init__(self, answer: Callable[[Candidates], Any]) -> None:
        self._answer = answer

    def keep(self, _query: Query, candidates: Candidates, /) -> NDArray[np.bool_]:
        answer: NDArray[np.bool_] = self._answer(candidates)
        return answer


class RequiredFilter(ScriptedFilter):
    required: ClassVar[bool] = True


class ScriptedHydrator(Hydrator):
    def __init__(self, answer: Callable[[Candidates], Candidates]) -> None:
        self._answer = answer

    def hydrate(self, _query: Query, candidates: Candidates, /) -> Candidates:
        return self._answer(candidates)


class ByIdScorer(Scorer):
    """Larger ids score higher."""

    def score(self, _queries: Sequence[Query], candidates: Sequence[Candidates], /) -> list[Candidates]:
        return [
            each.with_columns(
                weighted=each.posts.post_id.astype(np.float64), predictions=np.zeros_like(each.predictions)
            )
            for each in candidates
        ]


class ScriptedScorer(Scorer):
    def __init__(self, answer: Callable[[Sequence[Candidates]], list[Candidates]]) -> None:
        self._answer = answer

    def score(self, _queries: Sequence[Query], candidates: Sequence[Candidates], /) -> list[Candidates]:
        return self._answer(candidates)


class ScriptedSelector(Selector):
    required: ClassVar[bool] = True

    def __init__(self, answer: Callable[[Candidates], Any]) -> None:
        self._answer = answer

    def select(self, _query: Query, candidates: Candidates, /) -> NDArray[np.intp]:
        answer: NDArray[np.intp] = self._answer(candidates)
        return answer


class Noting(SideEffect):
    def __init__(self, error: Exception | None = None) -> None:
        self.noted: list[Result] = []
        self._error = error

    def run(self, results: Sequence[Result], /) -> None:
        self.noted.extend(results)
        if self._error:
            raise self._error


def pipeline(**stages: Any) -> Pipeline:
    """A pipeline that serves posts 6, 5, 4 …, but for the stages given."""
    default: dict[str, Any] = {
        "query_hydrators": [],
        "sources": [OneToSix()],
        "hydrators": [],
        "filters": [],
        "scorers": [ByIdScorer()],
        "selector": TopKSelector(),
        "post_selection_filters": [],
    }
    return Pipeline(**(default | stages))


def shown(result: Result) -> list[int]:
    post_ids: list[int] = result.candidates.posts.post_id.tolist()
    return post_ids


def raising(error: Exception) -> Callable[[Any], Any]:
    def raise_(_: Any) -> Any:
        raise error

    return raise_


def test_a_request_goes_through_the_stages_in_order() -> None:
    (result,) = pipeline(filters=[EvenFilter()]).run([query(size=2)])
    assert (result.status, shown(result)) == ("ok", [6, 4])
    assert [tuple(step) for step in result.funnel] == [
        ("source", "one_to_six", 0, 6),
        ("filter", "even_filter", 6, 3),
        ("selector", "top_k_selector", 3, 3),
        ("size", "size", 3, 2),
    ]


@pytest.mark.parametrize(
    ("named", "name"), [("OONRetweetReplyFilter", "oon_retweet_reply_filter"), ("TopKSelector", "top_k_selector")]
)
def test_a_component_is_named_after_its_class(named: str, name: str) -> None:
    assert type(named, (EvenFilter,), {})().name == name


def test_a_batch_is_hydrated_at_once_and_answered_in_order() -> None:
    hydrator = Recording()
    results = pipeline(query_hydrators=[hydrator]).run([query(user_id=user) for user in (1, 2, 3)])
    assert hydrator.batches == [3]
    assert [result.query.user_id for result in results] == [1, 2, 3]


def test_an_empty_batch_has_no_results() -> None:
    assert pipeline().run([]) == []


def test_a_request_past_its_deadline_is_answered_expired_without_work() -> None:
    hydrator = Recording()
    late = query(now_ms=NOW_MS + 3_600_000)
    results = pipeline(query_hydrators=[hydrator]).run([late, query()])
    assert [result.status for result in results] == ["expired", "ok"]
    assert hydrator.batches == [1]
    assert not results[0].funnel


def test_dropped_candidates_are_remembered_only_where_an_explanation_is_asked_for() -> None:
    asked = [query(size=2, explain=True), query(size=2)]
    explained, plain = pipeline(filters=[EvenFilter()]).run(asked)
    assert [(name, left_out.posts.post_id.tolist()) for name, left_out in explained.dropped] == [
        ("even_filter", [1, 3, 5]),
        ("size", [2]),
    ]
    assert plain.dropped == []


def test_every_candidate_is_either_shown_or_dropped_somewhere() -> None:
    (result,) = pipeline(filters=[EvenFilter()]).run([query(size=1, explain=True)])
    gone = [post_id for _, left_out in result.dropped for post_id in left_out.posts.post_id.tolist()]
    assert sorted(gone + shown(result)) == [1, 2, 3, 4, 5, 6]


def test_an_optional_component_that_fails_degrades_the_feed_and_says_so() -> None:
    (result,) = pipeline(filters=[ScriptedFilter(raising(BOOM))]).run([query(size=2)])
    assert (result.status, shown(result)) == ("degraded", [6, 5])
    assert result.query.degradations == ["scripted_filter: RuntimeError"]


def test_a_required_component_that_fails_fails_the_request_and_shows_nothing() -> None:
    (result,) = pipeline(filters=[RequiredFilter(raising(BOOM))]).run([query()])
    assert (result.status, shown(result)) == ("failed", [])


def test_a_request_that_fails_takes_no_other_of_its_batch_with_it() -> None:
    results = pipeline(sources=[PoisonedSource()]).run([query(user_id=user) for user in (1, 13, 2)])
    assert [result.status for result in results] == ["ok", "failed", "ok"]


def test_a_failed_source_is_no_failure_while_another_has_something_to_show() -> None:
    (result,) = pipeline(sources=[PoisonedSource(), OneToSix()]).run([query(user_id=13)])
    assert (result.status, len(result.candidates)) == ("degraded", 6)


def test_nothing_found_is_empty() -> None:
    nothing = ScriptedFilter(lambda found: np.zeros(len(found), np.bool_))
    scorer = ScriptedScorer(raising(BOOM))
    (result,) = pipeline(filters=[nothing], scorers=[scorer]).run([query()])
    assert result.status == "empty"
    assert result.query.degradations == []


@pytest.mark.parametrize(
    ("stage", "component"),
    [
        ("filters", ScriptedFilter(lambda found: np.ones(len(found) + 1, np.bool_))),
        ("filters", ScriptedFilter(lambda found: np.ones(len(found)))),
        ("filters", ScriptedFilter(lambda _: None)),
        ("hydrators", ScriptedHydrator(lambda found: found.take(np.array([0])))),
        ("hydrators", ScriptedHydrator(lambda found: found.take(np.arange(len(found))[::-1]))),
        ("hydrators", ScriptedHydrator(lambda found: found.with_columns(in_network=np.ones(len(found))))),
        ("scorers", ScriptedScorer(lambda _: [])),
        ("scorers", ScriptedScorer(lambda found: [each.take(np.array([1])) for each in found])),
    ],
    ids=["long mask", "float mask", "no mask", "fewer", "reordered", "wrong type", "no answers", "fewer scored"],
)
def test_what_does_not_fit_is_its_components_error_and_changes_nothing(stage: str, component: Component) -> None:
    (result,) = pipeline(**{"scorers": [], stage: [component]}).run([query(size=6)])
    assert result.status == "degraded"
    assert shown(result) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "positions", [np.array([0, 0]), np.array([0.0]), np.array([99])], ids=["repeated", "floats", "outside"]
)
def test_positions_that_do_not_fit_fail_the_request(positions: np.ndarray) -> None:
    (result,) = pipeline(selector=ScriptedSelector(lambda _: positions)).run([query()])
    assert result.status == "failed"


def test_a_component_that_cannot_even_say_whether_it_is_enabled_has_failed() -> None:
    class Undecided(EvenFilter):
        def enable(self, _query: Query, /) -> bool:
            raise BOOM

    (result,) = pipeline(filters=[Undecided()]).run([query()])
    assert (result.status, len(result.candidates)) == ("degraded", 6)


def test_a_server_that_is_away_is_no_components_failure() -> None:
    away = ConnectionError("away")
    for stages in ({"filters": [ScriptedFilter(raising(away))]}, {"side_effects": [Noting(away)]}):
        with pytest.raises(ConnectionError):
            pipeline(passes=(ConnectionError,), **stages).run([query()])


def test_side_effects_take_note_of_what_is_shown_and_cannot_spoil_it() -> None:
    effect = Noting(BOOM)
    results = pipeline(side_effects=[effect]).run([query(), query(now_ms=NOW_MS + 3_600_000)])
    assert [result.status for result in results] == ["ok", "expired"]
    assert effect.noted == results[:1]


def test_an_error_is_logged_once_and_counted_every_time(caplog: pytest.LogCaptureFixture) -> None:
    failing = pipeline(filters=[ScriptedFilter(raising(BOOM))])
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            failing.run([query()])
    assert len(caplog.records) == 1
    assert failing.stats["scripted_filter"].errors == 3


def test_every_component_is_counted_and_timed_without_a_line_in_it() -> None:
    counting = pipeline(filters=[EvenFilter()])
    results = counting.run([query(), query()])
    assert (counting.stats["even_filter"].entered, counting.stats["even_filter"].left) == (12, 6)
    assert counting.stats["one_to_six"].calls == 1
    assert results[0].timings_ms.keys() == {"one_to_six", "even_filter", "by_id_scorer", "top_k_selector"}
