"""Parallel components, time budgets, and their effect on requests."""

import threading
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.query import Query
from feed_worker.framework.budgets import STAGE_BUDGETS_MS
from feed_worker.framework.components import Fetched, QueryFields, QueryHydrator, Scorer, Source
from tests.feed_worker.builders import candidates_in, query, viewer
from tests.feed_worker.scripted import (
    BOOM,
    LONG_S,
    STORE,
    EvenFilter,
    OneToSix,
    hanging,
    pipeline,
    shown,
    until_idle,
)


class ScriptedSource(Source):
    """Calls a function, then finds these posts."""

    def __init__(self, act: Callable[[], Any], *post_ids: int) -> None:
        self.act, self._post_ids = act, post_ids
        self.called = 0

    def fetch(self, queries: Sequence[Query], /) -> list[Fetched]:
        self.called += 1
        self.act()
        return [Fetched(candidates_in(STORE, *self._post_ids)) for _ in queries]


class FirstSource(ScriptedSource):
    pass


class SecondSource(ScriptedSource):
    pass


class LastSource(ScriptedSource):
    """Depends on the results of the other sources."""

    waits: ClassVar[bool] = True

    def enable(self, query: Query, /) -> bool:
        return query.found < 3


class ScriptedQueryHydrator(QueryHydrator):
    required: ClassVar[bool] = True

    def __init__(self, act: Callable[[], Any]) -> None:
        self._act = act

    def hydrate(self, queries: Sequence[Query], /) -> list[QueryFields]:
        self._act()
        return [{"user": viewer(blocks=[7])} for _ in queries]


class OptionalScorer(Scorer):
    own_thread: ClassVar[bool] = True

    def __init__(self, act: Callable[[], Any]) -> None:
        self._act = act

    def score(self, _queries: Sequence[Query], candidates: Sequence[Candidates], /) -> list[Candidates]:
        self._act()
        return list(candidates)


def nothing() -> None:
    pass


def failing_with(error: BaseException) -> Callable[[], Any]:
    def raise_() -> None:
        raise error

    return raise_


def in_turn(*acts: Callable[[], Any]) -> Callable[[], Any]:
    """Calls one of these functions at each call."""
    remaining = iter(acts)
    return lambda: next(remaining)()


def meeting() -> Callable[[], int]:
    """A barrier that only two parallel calls can pass."""
    return threading.Barrier(2, timeout=LONG_S).wait


def test_independent_components_run_in_parallel() -> None:
    viewers, candidates = meeting(), meeting()
    tested = pipeline(
        query_hydrators=[ScriptedQueryHydrator(viewers), ScriptedQueryHydrator(viewers)],
        sources=[FirstSource(candidates, 1), SecondSource(candidates, 2)],
    )
    (result,) = tested.run([query()])
    assert (result.status, shown(result)) == ("ok", [2, 1])


def test_candidates_keep_the_order_of_the_sources_at_any_speed() -> None:
    second_is_done = threading.Event()
    tested = pipeline(
        sources=[
            FirstSource(lambda: second_is_done.wait(LONG_S), 3, 1),
            SecondSource(second_is_done.set, 2, 4),
        ],
        scorers=[],
    )
    (run,) = tested.gather([query()])
    assert run.candidates.posts.post_id.tolist() == [3, 1, 2, 4]
    assert [(step.name, step.entered, step.left) for step in run.funnel] == [
        ("first_source", 0, 2),
        ("second_source", 2, 4),
    ]


@pytest.mark.parametrize(("found", "expected"), [((1, 2), [1, 2, 6]), ((1, 2, 3), [1, 2, 3])])
def test_a_waiting_source_depends_on_the_results_of_the_others(found: tuple[int, ...], expected: list[int]) -> None:
    tested = pipeline(sources=[FirstSource(nothing, *found), LastSource(nothing, 6)])
    (run,) = tested.gather([query()])
    assert run.candidates.posts.post_id.tolist() == expected


def test_a_hanging_optional_component_degrades_the_feed_and_its_late_result_is_dropped() -> None:
    with hanging() as act:
        tested = pipeline(sources=[OneToSix(), FirstSource(act, 1)], budgets_ms={"first_source": 20})
        (result,) = tested.run([query()])
    assert act.ended.wait(LONG_S)
    until_idle(tested)
    assert (result.status, shown(result)) == ("degraded", [6, 5, 4, 3, 2, 1])
    assert result.query.degradations == ["first_source: over its budget of 20 ms"]
    assert result.query.found == 6


def test_a_hanging_required_component_fails_the_request_and_its_late_result_is_dropped() -> None:
    with hanging() as act:
        tested = pipeline(query_hydrators=[ScriptedQueryHydrator(act)], budgets_ms={"scripted_query_hydrator": 20})
        (result,) = tested.run([query()])
    until_idle(tested)
    assert (result.status, shown(result)) == ("failed", [])
    assert result.query.degradations == ["scripted_query_hydrator: over its budget of 20 ms"]
    assert not len(result.query.viewer.blocks)
    assert tested.stats["scripted_query_hydrator"].errors_by_kind == {"OverBudget": 1}
    assert tested.stats["scripted_query_hydrator"].over_budget == 1


def test_a_hanging_scorer_is_given_up() -> None:
    with hanging() as act:
        tested = pipeline(scorers=[OptionalScorer(act)], budgets_ms={"optional_scorer": 20})
        (result,) = tested.run([query(size=2)])
    assert (result.status, shown(result)) == ("degraded", [1, 2])


def test_a_hanging_batch_is_not_retried() -> None:
    with hanging() as act:
        source = FirstSource(act, 1)
        tested = pipeline(sources=[source, OneToSix()], budgets_ms={"first_source": 20})
        results = tested.run([query(user_id=user) for user in (1, 2, 3)])
    until_idle(tested)
    assert [result.status for result in results] == ["degraded"] * 3
    assert source.called == 1


def test_retries_of_a_failed_batch_stop_at_the_budget() -> None:
    with hanging() as act:
        source = FirstSource(in_turn(failing_with(BOOM), act), 1)
        tested = pipeline(sources=[source, OneToSix()], budgets_ms={"first_source": 20})
        results = tested.run([query(user_id=user) for user in (1, 2, 3)])
    until_idle(tested)
    assert [result.status for result in results] == ["degraded"] * 3
    assert source.called == 2


def test_a_component_that_still_hangs_is_not_called_again_before_it_has_ended() -> None:
    with hanging() as act:
        source = FirstSource(act, 1)
        tested = pipeline(sources=[source, OneToSix()], budgets_ms={"first_source": 20})
        tested.run([query()])
        (result,) = tested.run([query()])
        assert result.query.degradations == ["first_source: still busy"]
        assert source.called == 1
    until_idle(tested)
    assert tested.run([query()])[0].status == "ok"
    assert tested.stats["first_source"].errors_by_kind == {"OverBudget": 1, "StillBusy": 1}


def test_a_component_is_not_called_after_the_budget_of_its_stage() -> None:
    with hanging() as act:
        last = LastSource(nothing, 2)
        tested = pipeline(sources=[OneToSix(), FirstSource(act, 1), last], budgets_ms={"source": 20})
        last.enable = lambda _query: True  # type: ignore[method-assign]
        (result,) = tested.run([query()])
    assert result.query.degradations == [
        "first_source: over its stage's budget of 20 ms",
        "last_source: over its stage's budget of 20 ms",
    ]
    until_idle(tested)
    assert last.called == 0
    assert tested.stage_stats["source"].over_budget == 1


def test_an_overrun_of_a_direct_call_is_counted_and_its_result_applies() -> None:
    tested = pipeline(filters=[EvenFilter()], budgets_ms={"even_filter": 1e-6, "filter": 1e-6})
    (result,) = tested.run([query()])
    assert (result.status, shown(result)) == ("ok", [6, 4, 2])
    assert tested.stats["even_filter"].over_budget == 1
    assert tested.stage_stats["filter"].over_budget == 1


def test_a_budget_of_an_unknown_name_is_refused_with_the_valid_names() -> None:
    with pytest.raises(ValueError, match=r"thunder_sauce to have a budget; there are .*one_to_six, .*source, "):
        pipeline(budgets_ms={"thunder_sauce": 100})
    with pytest.raises(ValueError, match="one_to_six must be more than 0 ms"):
        pipeline(budgets_ms={"one_to_six": 0})


def test_a_lost_server_is_raised_after_all_components_of_the_wave_have_ended() -> None:
    let_go = threading.Event()
    tested = pipeline(
        sources=[
            FirstSource(in_turn(failing_with(ConnectionError("away")), nothing), 1),
            SecondSource(lambda: let_go.wait(LONG_S), 2),
        ],
        passes=(ConnectionError,),
    )
    threading.Timer(0.01, let_go.set).start()
    with pytest.raises(ConnectionError):
        tested.run([query()])
    (result,) = tested.run([query()])
    assert (result.status, shown(result)) == ("ok", [2, 1])


def test_the_end_of_the_process_is_no_failure_of_a_component() -> None:
    with pytest.raises(KeyboardInterrupt):
        pipeline(sources=[FirstSource(failing_with(KeyboardInterrupt()), 1)]).run([query()])


def test_one_batch_is_gathered_while_another_is_ranked() -> None:
    together = meeting()
    ranking = threading.Event()

    def rank() -> None:
        ranking.set()
        together()

    def gather() -> None:
        assert ranking.wait(LONG_S)
        together()

    tested = pipeline(sources=[FirstSource(in_turn(nothing, gather), 1, 2)], scorers=[OptionalScorer(rank)])
    first = tested.gather([query()])
    thread = threading.Thread(target=tested.rank, args=(first,))
    thread.start()
    second = tested.gather([query()])
    thread.join(LONG_S)
    assert len(second[0].candidates) == 2
    assert tested.finish(first)[0].status == "ok"


def test_statistics_are_exact_and_readable_while_batches_run() -> None:
    tested = pipeline(filters=[EvenFilter()])
    reading = threading.Event()

    def serve() -> None:
        for _ in range(50):
            tested.run([query(), query(user_id=2)])

    def read() -> None:
        while not reading.is_set():
            for stats in [*tested.stats.values(), *tested.stage_stats.values()]:
                assert sum(stats.histogram) == stats.calls

    threads = [threading.Thread(target=serve) for _ in range(3)]
    reader = threading.Thread(target=read)
    for thread in (reader, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    reading.set()
    reader.join()
    stats = tested.stats["even_filter"]
    assert (stats.stage, stats.calls, stats.removed) == ("filter", 300, 900)
    assert (tested.stats["one_to_six"].calls, tested.stats["one_to_six"].added) == (150, 1800)
    assert stats.cumulative[-1] == (float("inf"), 300)
    assert tested.stage_stats["filter"].calls == 150
    assert tested.stats.keys() == {"one_to_six", "even_filter", "by_id_scorer", "top_k_selector"}


def test_threads_are_reused() -> None:
    before = threading.active_count()
    for _ in range(100):
        assert pipeline().run([query()])[0].status == "ok"
    assert threading.active_count() - before < 10


def test_a_request_has_the_time_of_each_stage_and_of_each_component() -> None:
    (result,) = pipeline(filters=[EvenFilter()]).run([query()])
    assert [*result.stages_ms, "side_effect"] == list(STAGE_BUDGETS_MS)
    assert result.stages_ms["source"] >= result.timings_ms["one_to_six"] > 0
