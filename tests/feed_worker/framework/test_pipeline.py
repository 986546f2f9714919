import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Component, QueryFields
from tests.feed_worker.builders import NOW_MS, query
from tests.feed_worker.scripted import (
    BOOM,
    EvenFilter,
    Noting,
    OneToSix,
    PoisonedSource,
    Recording,
    RequiredFilter,
    ScriptedFilter,
    ScriptedHydrator,
    ScriptedScorer,
    ScriptedSelector,
    pipeline,
    raising,
    shown,
)


def test_a_request_passes_the_stages_in_order() -> None:
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


def test_dropped_candidates_are_kept_only_for_an_explanation() -> None:
    queries = [query(size=2, explain=True), query(size=2)]
    explained, plain = pipeline(filters=[EvenFilter()]).run(queries)
    assert [(name, left_out.posts.post_id.tolist()) for name, left_out in explained.dropped] == [
        ("even_filter", [1, 3, 5]),
        ("size", [2]),
    ]
    assert plain.dropped == []


def test_every_candidate_is_either_shown_or_dropped_by_a_component() -> None:
    (result,) = pipeline(filters=[EvenFilter()]).run([query(size=1, explain=True)])
    gone = [post_id for _, left_out in result.dropped for post_id in left_out.posts.post_id.tolist()]
    assert sorted(gone + shown(result)) == [1, 2, 3, 4, 5, 6]


def test_a_failed_optional_component_degrades_the_feed_and_is_listed_in_it() -> None:
    (result,) = pipeline(filters=[ScriptedFilter(raising(BOOM))]).run([query(size=2)])
    assert (result.status, shown(result)) == ("degraded", [6, 5])
    assert result.query.degradations == ["scripted_filter: RuntimeError"]


def test_a_failed_required_component_fails_the_request_and_leaves_no_items() -> None:
    (result,) = pipeline(filters=[RequiredFilter(raising(BOOM))]).run([query()])
    assert (result.status, shown(result)) == ("failed", [])


def test_a_failed_request_does_not_fail_the_others_of_its_batch() -> None:
    results = pipeline(sources=[PoisonedSource()]).run([query(user_id=user) for user in (1, 13, 2)])
    assert [result.status for result in results] == ["ok", "failed", "ok"]


def test_a_failed_source_is_no_failure_while_another_finds_candidates() -> None:
    (result,) = pipeline(sources=[PoisonedSource(), OneToSix()]).run([query(user_id=13)])
    assert (result.status, len(result.candidates)) == ("degraded", 6)


def test_a_feed_without_candidates_is_empty() -> None:
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
def test_a_result_that_does_not_fit_is_an_error_of_its_component_and_changes_no_request(
    stage: str, component: Component
) -> None:
    (result,) = pipeline(**{"scorers": [], stage: [component]}).run([query(size=6)])
    assert result.status == "degraded"
    assert shown(result) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "positions", [np.array([0, 0]), np.array([0.0]), np.array([99])], ids=["repeated", "floats", "outside"]
)
def test_positions_that_do_not_fit_fail_the_request(positions: np.ndarray) -> None:
    (result,) = pipeline(selector=ScriptedSelector(lambda _: positions)).run([query()])
    assert result.status == "failed"


def test_an_error_in_enable_is_a_failure_of_the_component() -> None:
    class Undecided(EvenFilter):
        def enable(self, _query: Query, /) -> bool:
            raise BOOM

    (result,) = pipeline(filters=[Undecided()]).run([query()])
    assert (result.status, len(result.candidates)) == ("degraded", 6)


def test_a_lost_server_is_no_failure_of_a_component() -> None:
    away = ConnectionError("away")
    for stages in ({"filters": [ScriptedFilter(raising(away))]}, {"side_effects": [Noting(away)]}):
        with pytest.raises(ConnectionError):
            pipeline(passes=(ConnectionError,), **stages).run([query()])


def test_side_effects_get_the_shown_items_and_their_errors_change_no_feed() -> None:
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


def test_the_framework_counts_and_times_every_component() -> None:
    counting = pipeline(filters=[EvenFilter()])
    results = counting.run([query(), query()])
    assert (counting.stats["even_filter"].entered, counting.stats["even_filter"].left) == (12, 6)
    assert counting.stats["one_to_six"].calls == 1
    assert results[0].timings_ms.keys() == {"one_to_six", "even_filter", "by_id_scorer", "top_k_selector"}


class Passing:
    """A clock that a test advances."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def passes(self, candidates: Candidates) -> np.ndarray:
        self.now_s += 61.0
        return np.ones(len(candidates), np.bool_)


def test_a_request_that_expires_between_stages_stops_there_and_keeps_its_funnel() -> None:
    clock, scorer = Passing(), ScriptedScorer(lambda found: list(found))
    tested = pipeline(filters=[ScriptedFilter(clock.passes), EvenFilter()], scorers=[scorer])
    late, other = tested.run([replace(query(), monotonic=clock), query(user_id=2)])
    assert (late.status, shown(late), late.query.degradations) == ("expired", [], [])
    assert [(step.name, step.left) for step in late.funnel] == [
        ("one_to_six", 6),
        ("scripted_filter", 6),
        ("even_filter", 3),
    ]
    assert "scripted_scorer" not in late.timings_ms
    assert other.status == "ok"


def test_a_request_that_has_failed_does_not_expire_as_well() -> None:
    clock = Passing()
    tested = pipeline(filters=[RequiredFilter(raising(BOOM)), ScriptedFilter(clock.passes)])
    runs = tested.gather([replace(query(), monotonic=clock)])
    clock.now_s += 61.0
    assert tested.finish(runs)[0].status == "failed"


def test_each_finish_checks_the_deadline_and_an_expired_feed_has_no_side_effects() -> None:
    clock, effect = Passing(), Noting()
    tested = pipeline(side_effects=[effect])
    runs = tested.gather([replace(query(), monotonic=clock)])
    tested.rank(runs)
    in_time = tested.finish(runs)
    tested.run_side_effects(in_time)
    clock.now_s += 61.0
    late = tested.finish(runs)
    tested.run_side_effects(late)
    assert [(result.status, shown(result)) for result in (*in_time, *late)] == [
        ("ok", [6, 5, 4, 3, 2, 1]),
        ("expired", []),
    ]
    assert effect.noted == in_time


def test_each_finish_applies_the_post_selection_filters_as_of_now_and_fills_the_gaps() -> None:
    hidden = {6}
    last = ScriptedFilter(lambda found: ~np.isin(found.posts.post_id, [*hidden]))
    tested = pipeline(post_selection_filters=[last])
    runs = tested.gather([query(size=3)])
    tested.rank(runs)
    first = tested.finish(runs)
    hidden.add(4)
    results = [*first, *tested.finish(runs)]
    assert [shown(result) for result in results] == [[5, 4, 3], [5, 3, 2]]
    steps = [[(step.name, step.entered, step.left) for step in result.funnel[2:]] for result in results]
    assert steps == [
        [("scripted_filter", 6, 5), ("size", 5, 3)],
        [("scripted_filter", 6, 4), ("size", 4, 3)],
    ]


def test_an_unknown_query_field_is_an_error_of_the_hydrator() -> None:
    class Overreaching(Recording):
        def hydrate(self, queries: Sequence[Query], /) -> list[QueryFields]:
            return [{"size": 1_000} for _ in queries]  # type: ignore[typeddict-unknown-key]

    (result,) = pipeline(query_hydrators=[Overreaching()]).run([query(size=2)])
    assert (result.query.degradations, result.query.size) == (["overreaching: ContractError"], 2)


def test_side_effects_are_timed_and_counted() -> None:
    tested = pipeline(side_effects=[Noting(BOOM)])
    tested.run([query()])
    assert (tested.stats["noting"].calls, tested.stats["noting"].errors_by_kind) == (1, {"RuntimeError": 1})
    assert tested.stage_stats["side_effect"].calls == 1
