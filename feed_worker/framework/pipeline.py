"""The candidate pipeline: a batch of requests through typed stages.

Query hydrators ▸ sources ▸ hydrators ▸ filters ▸ scorers ▸ selector ▸ post-selection filters ▸ side effects. Components
that call a model or a server work on the whole batch; plain arithmetic on columns works on one request at a time.

The pipeline isolates failures per request: a component that fails on a batch is retried one request at a time. A
component over its budget has failed, too, and is not retried, since it would hang for each request. In the published
system components have their own timeouts; here the framework has budgets and retries.
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
from feed_worker.framework.statistics import Statistics
from infra.ports.errors import ForYouError

log = logging.getLogger(__name__)

_SIDE_EFFECT = "side_effect"


class StillBusy(Exception):
    """A component still runs an earlier call that was given up."""


@dataclass(kw_only=True)
class Pipeline:
    """The components of each stage, and the steps that run them.

    Any thread may call a step. The steps `gather`, `rank`, `finish` and `run_side_effects` may run at the same time,
    for different batches. A lock admits one batch at a time to each step, so a component never gets two calls at once.

    Attributes:
        passes: exceptions that no component causes, such as a lost server. They propagate to the caller, which waits
            and runs the batch again.
        budgets_ms: time budgets by stage or component; STAGE_BUDGETS_MS for other stages.
        stats: statistics by component name; any thread may read them.
        stage_stats: statistics by stage name, one call a batch.

    Raises:
        ValueError: at construction, for a budget of an unknown name or of no more than 0 ms.

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
        self._calls: dict[int, BackgroundCall[list[Any]]] = {}  # the last call of each component, by its identity
        self._steps = {step: threading.Lock() for step in ("gather", "rank", "finish", _SIDE_EFFECT)}

    @property
    def stages(self) -> dict[str, Sequence[Component]]:
        """The components by stage name, in order."""
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
        """The results of a batch of requests, in order; each has exactly one status.

        Equals `gather`, `rank`, `finish` and `run_side_effects`. A worker calls these from three threads, so that
        batches overlap.

        Raises:
            Exception: one of `passes`; the batch may then be run again, with new queries.

        """
        runs = self.gather(queries)
        self.rank(runs)
        results = self.finish(runs)
        self.run_side_effects(results)
        return results

    def gather(self, queries: Sequence[Query]) -> list[RequestRun]:
        """Read the viewers; retrieve, hydrate and filter candidates. Raises one of `passes`, like `run`."""
        runs = [RequestRun(query) for query in queries]
        with self._steps["gather"]:
            for stage in (stages.QUERY_HYDRATOR, stages.SOURCE, stages.HYDRATOR, stages.FILTER):
                self._run_stage(stage, runs)
        return runs

    def rank(self, runs: Sequence[RequestRun]) -> None:
        """Score and select candidates. Calls the ranker."""
        with self._steps["rank"]:
            for stage in (stages.SCORER, stages.SELECTOR):
                self._run_stage(stage, runs)

    def finish(self, runs: Sequence[RequestRun]) -> list[Result]:
        """Apply the post-selection filters, and return the results as of now.

        Changes no run. So a caller that had to wait calls again, and gets the results by the present facts and time.
        """
        ended = [run.copy() for run in runs]
        with self._steps["finish"]:
            self._run_stage(stages.POST_SELECTION_FILTER, ended)
        return [run.result() for run in ended]

    def run_side_effects(self, results: Sequence[Result]) -> None:
        """Run the side effects; a second call is safe. Raises one of `passes`, like `run`."""
        with self._steps[_SIDE_EFFECT]:
            self._run_side_effects([result for result in results if len(result.candidates)])

    def _run_stage(self, stage: Stage, runs: Sequence[RequestRun]) -> None:
        open_ = [run for run in runs if run.is_open()]
        if not open_:
            return
        began_s = time.perf_counter()
        ends_s = began_s + self._budget_ms(stage.name) / 1000
        for wave in stage.waves(self.stages[stage.name]):
            enabled = [(component, self._enabled(stage, component, open_)) for component in wave]
            if wave[0].own_thread:
                self._call_in_background(stage, [(component, some) for component, some in enabled if some], ends_s)
            else:
                self._call_directly(stage, enabled)
        elapsed_ms = self._record_stage(stage.name, began_s)
        for run in open_:
            run.stages_ms[stage.name] = elapsed_ms

    def _enabled(self, stage: Stage, component: Component, runs: Sequence[RequestRun]) -> list[RequestRun]:
        able = [run for run in runs if not run.failed and (stage.of_queries or len(run.candidates))]
        return [run for run in able if self._is_enabled(stage, component, run)]

    def _is_enabled(self, stage: Stage, component: Component, run: RequestRun) -> bool:
        reads_state = stage in (stages.QUERY_HYDRATOR, stages.HYDRATOR)
        if run.query.is_check and not (component.required or reads_state):
            return False
        try:
            return component.enable(run.query)
        except self.passes:
            raise
        except Exception as error:  # a component's defect must not end the worker
            self._failed(stage, component, run, error)
            return False

    def _call_directly(self, stage: Stage, enabled: Sequence[tuple[Component, list[RequestRun]]]) -> None:
        for component, able in enabled:
            for runs in stage.groups(able):
                began_s = time.perf_counter()
                outcomes = stage.outcomes(component, runs, self.passes)
                self._settle(stage, component, runs, outcomes, 1000 * (time.perf_counter() - began_s))

    def _call_in_background(
        self, stage: Stage, enabled: Sequence[tuple[Component, list[RequestRun]]], ends_s: float
    ) -> None:
        """Call components in parallel; after each has ended or is given up, apply the outcomes in their order.

        One of `passes` is also raised only then, so that no component is still busy when the batch runs again.
        """
        begun = [(*each, self._begin(stage, *each, ends_s)) for each in enabled]
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
        """A running call, or the error that prevents it."""
        earlier = self._calls.get(id(component))
        if earlier and earlier.is_running:
            return StillBusy("still busy")
        if time.perf_counter() >= ends_s:
            return self._over(stage.name, "its stage's")

        def outcomes(call: BackgroundCall[list[Any]]) -> list[Any]:
            return stage.outcomes(component, runs, self.passes, lambda: call.given_up)

        call = self._calls[id(component)] = BackgroundCall(component.name, outcomes)
        return call

    def _awaited(
        self,
        stage: Stage,
        component: Component,
        _runs: Sequence[RequestRun],
        call: BackgroundCall[list[Any]] | Exception,
        stage_ends_s: float,
    ) -> list[Any] | Exception:
        """The component's outcome for each request, or the error of the whole call."""
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
        """Apply the outcome for each request, and record candidates and times."""
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
        self.stats.record_call(name, elapsed_ms, elapsed_ms > self._budget_ms(name), entered, left)

    def _failed(self, stage: Stage, component: Component, run: RequestRun, error: Exception) -> None:
        self._record_error(component, error)
        has_reason = isinstance(error, OverBudget | StillBusy | ForYouError)
        reason = str(error) if has_reason else type(error).__name__
        degradation = f"{component.name}: {reason}"
        if degradation not in run.query.degradations:  # `finish` may be called again
            run.query.degradations.append(degradation)
        run.failed |= component.required
        run.source_failed |= stage is stages.SOURCE

    def _record_error(self, component: Component, error: Exception) -> None:
        if self.stats.record_error(component.name, error):
            log.error("%s failed; further errors of this kind are only counted", component.name, exc_info=error)

    def _record_stage(self, name: str, began_s: float) -> float:
        elapsed_ms = 1000 * (time.perf_counter() - began_s)
        self.stage_stats.record_call(name, elapsed_ms, elapsed_ms > self._budget_ms(name))
        return elapsed_ms

    def _run_side_effects(self, results: Sequence[Result]) -> None:
        began_s = time.perf_counter()
        for effect in self.side_effects:
            effect_began_s = time.perf_counter()
            try:
                if enabled := [each for each in results if not each.query.is_check and effect.enable(each.query)]:
                    effect.run(enabled)
            except self.passes:
                raise
            except Exception as error:  # no feed depends on a side effect
                self._record_error(effect, error)
            elapsed_ms = 1000 * (time.perf_counter() - effect_began_s)
            self.stats.record_call(effect.name, elapsed_ms, elapsed_ms > self._budget_ms(effect.name))
        if results:
            self._record_stage(_SIDE_EFFECT, began_s)
