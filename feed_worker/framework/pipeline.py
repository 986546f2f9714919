"""The candidate pipeline: a batch of requests through one list of typed stages.

Query hydrators ▸ sources ▸ hydrators ▸ filters ▸ scorers ▸ selector ▸ post-selection filters ▸ side effects. What
talks to a model or to a server works on the whole batch; what is plain arithmetic on columns, on one request at a time.

A failing component never takes other requests with it: a batch that fails is tried again one request at a time. A
component that does not answer within its budget has failed too, and is not tried again: what hangs would hang for each
request. In the published system timeouts are its components' own business; here the framework has them, and the retry.
"""

import logging
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from feed_worker.candidates.query import Query
from feed_worker.framework import stages
from feed_worker.framework.background_call import BackgroundCall
from feed_worker.framework.budgets import STAGE_BUDGETS_MS, Budgets, OverBudget, check_budgets
from feed_worker.framework.components import (
    Component,
    Filter,
    Hydrator,
    QueryHydrator,
    Scorer,
    Selector,
    SideEffect,
    Source,
)
from feed_worker.framework.request_run import FunnelStep, RequestRun, Result
from feed_worker.framework.stages import Stage
from feed_worker.framework.statistics import ComponentStatistics, Statistics

__all__ = ["ComponentStatistics", "Pipeline", "Result"]

log = logging.getLogger(__name__)

_SIDE_EFFECT = "side_effect"


class StillBusy(Exception):
    """A component has not yet ended a call that was given up."""


@dataclass(kw_only=True)
class Pipeline:
    """A list of stages, and what happens to requests in them.

    Steps of different batches may be under way at once, each on a thread of its own. A step takes one batch at a time,
    so a component never has more than one call to answer.

    Attributes:
        passes: errors that are no component's fault: a server that is away. They leave `run`, for the caller to wait
            and run the batch again.
        budgets_ms: how long stages and components may take; stages not named, as long as STAGE_BUDGETS_MS says.
        stats: running figures by component name; may be read from any thread.
        stage_stats: the same by stage, where a call is a batch.

    """

    query_hydrators: Sequence[QueryHydrator]
    sources: Sequence[Source]
    hydrators: Sequence[Hydrator]
    filters: Sequence[Filter]
    scorers: Sequence[Scorer]
    selector: Selector
    post_selection_filters: Sequence[Filter]
    side_effects: Sequence[SideEffect] = ()
    passes: tuple[type[Exception], ...] = ()
    budgets_ms: Budgets = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.stats = Statistics({each.name: stage for stage, some in self.stages.items() for each in some})
        self.stage_stats = Statistics({stage: stage for stage in self.stages})
        check_budgets(self.budgets_ms, [*self.stats, *self.stage_stats])
        self._budgets_ms = {**STAGE_BUDGETS_MS, **self.budgets_ms}
        self._calls: dict[int, BackgroundCall[list[Any]]] = {}  # the last one of each component, by its identity
        self._steps = {step: threading.Lock() for step in ("gather", "rank", "finish")}

    @property
    def stages(self) -> dict[str, Sequence[Component]]:
        """The components of each stage, by its name, in order."""
        return {
            stages.QUERY_HYDRATOR.name: self.query_hydrators,
            stages.SOURCE.name: self.sources,
            stages.HYDRATOR.name: self.hydrators,
            stages.FILTER.name: self.filters,
            stages.SCORER.name: self.scorers,
            stages.SELECTOR.name: [self.selector],
            stages.POST_SELECTION_FILTER.name: self.post_selection_filters,
            _SIDE_EFFECT: self.side_effects,
        }

    def run(self, queries: Sequence[Query]) -> list[Result]:
        """The results of a batch of requests, in their order; each ends in exactly one status.

        The same as `gather`, `rank` and `finish`, which a worker calls from a thread each so that batches overlap.

        Raises:
            Exception: one of `passes`; the batch may then be run again, with fresh queries.

        """
        runs = self.gather(queries)
        self.rank(runs)
        return self.finish(runs)

    def gather(self, queries: Sequence[Query]) -> list[RequestRun]:
        """Viewers read, candidates found, hydrated and filtered; raises one of `passes` like `run`."""
        runs = [RequestRun(query) for query in queries]
        with self._steps["gather"]:
            for stage in (stages.QUERY_HYDRATOR, stages.SOURCE, stages.HYDRATOR, stages.FILTER):
                self._pass_through(stage, runs)
        return runs

    def rank(self, runs: Sequence[RequestRun]) -> None:
        """Candidates scored, selected and checked once more; the ranker is asked in here."""
        with self._steps["rank"]:
            for stage in (stages.SCORER, stages.SELECTOR, stages.POST_SELECTION_FILTER):
                self._pass_through(stage, runs)

    def finish(self, runs: Sequence[RequestRun]) -> list[Result]:
        """The results, with side effects done; may be called again, raises one of `passes` like `run`."""
        results = [run.result() for run in runs]
        with self._steps["finish"]:
            self._affect([result for result in results if len(result.candidates)])
        return results

    def _pass_through(self, stage: Stage, runs: Sequence[RequestRun]) -> None:
        going = [run for run in runs if run.goes_on()]
        if not going:
            return
        began_s = time.perf_counter()
        ends_s = began_s + self._budget_ms(stage.name) / 1000
        for wave in stage.waves(self.stages[stage.name]):
            asked = [(component, self._enabled(stage, component, going)) for component in wave]
            if wave[0].own_thread:
                self._ask_apart(stage, [(component, some) for component, some in asked if some], ends_s)
            else:
                self._ask_here(stage, asked)
        elapsed_ms = self._note_stage(stage.name, began_s)
        for run in going:
            run.stages_ms[stage.name] = elapsed_ms

    def _enabled(self, stage: Stage, component: Component, runs: Sequence[RequestRun]) -> list[RequestRun]:
        going = [run for run in runs if not run.failed and (stage.of_queries or len(run.candidates))]
        return [run for run in going if self._is_enabled(stage, component, run)]

    def _is_enabled(self, stage: Stage, component: Component, run: RequestRun) -> bool:
        try:
            return component.enable(run.query)
        except self.passes:
            raise
        except Exception as error:  # a component's mistake must not end the worker
            self._failed(stage, component, run, error)
            return False

    def _ask_here(self, stage: Stage, asked: Sequence[tuple[Component, list[RequestRun]]]) -> None:
        for component, enabled in asked:
            for runs in stage.groups(enabled):
                began_s = time.perf_counter()
                outcomes = stage.outcomes(component, runs, self.passes)
                self._settle(stage, component, runs, outcomes, 1000 * (time.perf_counter() - began_s))

    def _ask_apart(self, stage: Stage, asked: Sequence[tuple[Component, list[RequestRun]]], ends_s: float) -> None:
        """Ask components at the same time; take what they say, in their order, once each has ended or is given up.

        Only then is it said that a server is away, so that nobody is still busy when the batch comes again.
        """
        begun = [(*each, self._begin(stage, *each, ends_s)) for each in asked]
        ended = [(*each, self._awaited(stage, *each, ends_s)) for each in begun]
        for *_, outcome in ended:
            if isinstance(outcome, self.passes):
                raise outcome
        for component, runs, call, outcome in ended:
            outcomes = [outcome] * len(runs) if isinstance(outcome, Exception) else outcome
            self._settle(stage, component, runs, outcomes, call.elapsed_ms if isinstance(call, BackgroundCall) else 0.0)

    def _begin(
        self, stage: Stage, component: Component, runs: Sequence[RequestRun], ends_s: float
    ) -> BackgroundCall[list[Any]] | Exception:
        """A call under way, or why there is none."""
        earlier = self._calls.get(id(component))
        if earlier and earlier.is_under_way:
            return StillBusy("still busy")
        if time.perf_counter() >= ends_s:
            return self._over(stage.name, "its stage's")

        def ask(call: BackgroundCall[list[Any]]) -> list[Any]:
            return stage.outcomes(component, runs, self.passes, lambda: call.given_up)

        call = self._calls[id(component)] = BackgroundCall(component.name, ask)
        return call

    def _awaited(
        self,
        stage: Stage,
        component: Component,
        _runs: Sequence[RequestRun],
        call: BackgroundCall[list[Any]] | Exception,
        stage_ends_s: float,
    ) -> list[Any] | Exception:
        """What a component says to each request, or why nobody knows."""
        if isinstance(call, Exception):
            return call
        ends_s = call.began_s + self._budget_ms(component.name) / 1000
        try:
            if call.ends_by(min(ends_s, stage_ends_s)):
                return call.result()
        except self.passes as error:
            return error
        return self._over(component.name) if ends_s <= stage_ends_s else self._over(stage.name, "its stage's")

    def _over(self, name: str, whose: str = "its") -> OverBudget:
        return OverBudget(f"over {whose} budget of {self._budget_ms(name):g} ms")

    def _budget_ms(self, name: str) -> float:
        return self._budgets_ms.get(name, math.inf)

    def _settle(
        self, stage: Stage, component: Component, runs: Sequence[RequestRun], outcomes: Sequence[Any], elapsed_ms: float
    ) -> None:
        """Take what a component said to each request, and note what that did."""
        name, entered = component.name, [len(run.candidates) for run in runs]
        for run, outcome in zip(runs, outcomes, strict=True):
            if isinstance(outcome, Exception):
                self._failed(stage, component, run, outcome)
            else:
                stage.apply(run, name, outcome)
        left = [len(run.candidates) for run in runs]
        for run, before, after in zip(runs, entered, left, strict=True):
            run.timings_ms[name] = run.timings_ms.get(name, 0.0) + elapsed_ms
            if stage.counted:
                run.funnel.append(FunnelStep(stage.name, name, before, after))
        self.stats.note(name, elapsed_ms, elapsed_ms > self._budget_ms(name), entered, left)

    def _failed(self, stage: Stage, component: Component, run: RequestRun, error: Exception) -> None:
        self._note_error(component, error)
        told = str(error) if isinstance(error, OverBudget | StillBusy) else type(error).__name__
        run.query.degradations.append(f"{component.name}: {told}")
        run.failed |= component.required
        run.source_failed |= stage is stages.SOURCE

    def _note_error(self, component: Component, error: Exception) -> None:
        if self.stats.note_error(component.name, error):
            log.error("%s failed; further errors of this kind are only counted", component.name, exc_info=error)

    def _note_stage(self, name: str, began_s: float) -> float:
        elapsed_ms = 1000 * (time.perf_counter() - began_s)
        self.stage_stats.note(name, elapsed_ms, elapsed_ms > self._budget_ms(name))
        return elapsed_ms

    def _affect(self, results: Sequence[Result]) -> None:
        began_s = time.perf_counter()
        for effect in self.side_effects:
            effect_began_s = time.perf_counter()
            try:
                if enabled := [result for result in results if effect.enable(result.query)]:
                    effect.run(enabled)
            except self.passes:
                raise
            except Exception as error:  # the feeds are right without it
                self._note_error(effect, error)
            elapsed_ms = 1000 * (time.perf_counter() - effect_began_s)
            self.stats.note(effect.name, elapsed_ms, elapsed_ms > self._budget_ms(effect.name))
        if results:
            self._note_stage(_SIDE_EFFECT, began_s)
