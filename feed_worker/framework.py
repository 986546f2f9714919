"""The candidate pipeline: a batch of requests through one list of typed stages.

Query hydrators ▸ sources ▸ hydrators ▸ filters ▸ scorers ▸ selector ▸ post-selection filters ▸ side effects. What
talks to a model or to a server works on the whole batch; what is plain arithmetic on columns, on one request at a time.

A failing component never takes other requests with it: a batch that fails is tried again one request at a time.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from feed_worker import stages
from feed_worker.components import Component, Filter, Hydrator, QueryHydrator, Scorer, Selector, SideEffect, Source
from feed_worker.query import Query
from feed_worker.run import Result, Run, Step

__all__ = ["ComponentStats", "Pipeline", "Result"]

log = logging.getLogger(__name__)

_Call: TypeAlias = Callable[[Any, Sequence[Run]], None]
_WITHOUT_CANDIDATES: Final = ("query_hydrator", "source")
_NARROWING: Final = ("source", "filter", "selector", "post_selection_filter")


@dataclass(slots=True)
class ComponentStats:
    """Running figures of one component, over all requests; `entered` and `left` count candidates."""

    calls: int = 0
    errors: int = 0
    entered: int = 0
    left: int = 0
    total_ms: float = 0.0
    max_ms: float = 0.0


@dataclass(kw_only=True)
class Pipeline:
    """A list of stages, and what happens to requests in them.

    Attributes:
        passes: errors that are no component's fault: a server that is away. They leave `run`, for the caller to wait
            and run the batch again.
        stats: running figures by component name.

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
    stats: dict[str, ComponentStats] = field(default_factory=dict)
    _logged: set[tuple[str, type[Exception]]] = field(default_factory=set)

    def run(self, queries: Sequence[Query]) -> list[Result]:
        """The results of a batch of requests, in their order; each ends in exactly one status.

        The same as `gather`, `rank` and `finish`, which a worker calls from a thread each so that batches overlap.

        Raises:
            Exception: one of `passes`; the batch may then be run again, with fresh queries.

        """
        runs = self.gather(queries)
        self.rank(runs)
        return self.finish(runs)

    def gather(self, queries: Sequence[Query]) -> list[Run]:
        """Viewers read, candidates found, hydrated and filtered; raises one of `passes` like `run`."""
        runs = [Run(query) for query in queries]
        going = [run for run in runs if not run.query.is_expired]
        self._batches("query_hydrator", self.query_hydrators, going, stages.hydrate_queries)
        self._batches("source", self.sources, going, stages.fetch)
        self._singles("hydrator", self.hydrators, going, stages.hydrate)
        self._singles("filter", self.filters, going, stages.apply_filter)
        return runs

    def rank(self, runs: Sequence[Run]) -> None:
        """Candidates scored, selected and checked once more; what computes on the device is in here alone."""
        going = [run for run in runs if not run.query.is_expired]
        self._batches("scorer", self.scorers, going, stages.score)
        self._singles("selector", [self.selector], going, stages.select)
        self._singles("post_selection_filter", self.post_selection_filters, going, stages.apply_filter)

    def finish(self, runs: Sequence[Run]) -> list[Result]:
        """The results, with side effects done; may be called again, raises one of `passes` like `run`."""
        results = [run.result() for run in runs]
        self._affect([result for result in results if len(result.candidates)])
        return results

    def _batches(self, stage: str, components: Iterable[Component], runs: Sequence[Run], call: _Call) -> None:
        for component in components:
            if enabled := self._enabled(stage, component, runs):
                self._attempt(stage, component, enabled, call)

    def _singles(self, stage: str, components: Iterable[Component], runs: Sequence[Run], call: _Call) -> None:
        for component in components:
            for run in self._enabled(stage, component, runs):
                self._attempt(stage, component, [run], call)

    def _enabled(self, stage: str, component: Component, runs: Sequence[Run]) -> list[Run]:
        going = [run for run in runs if not run.failed and (len(run.candidates) or stage in _WITHOUT_CANDIDATES)]
        return [run for run in going if self._is_enabled(stage, component, run)]

    def _is_enabled(self, stage: str, component: Component, run: Run) -> bool:
        try:
            return component.enable(run.query)
        except self.passes:
            raise
        except Exception as error:  # a component's mistake must not end the worker
            self._failed(stage, component, run, error)
            return False

    def _attempt(self, stage: str, component: Component, runs: Sequence[Run], call: _Call) -> None:
        entered = [len(run.candidates) for run in runs]
        began = time.perf_counter()
        try:
            call(component, runs)
        except self.passes:
            raise
        except Exception as error:  # whatever a component raises is that component's failure
            if len(runs) > 1:
                for run in runs:
                    self._attempt(stage, component, [run], call)
                return
            self._failed(stage, component, runs[0], error)
        self._note(stage, component, runs, entered, 1000 * (time.perf_counter() - began))

    def _failed(self, stage: str, component: Component, run: Run, error: Exception) -> None:
        self._count_error(component, error)
        run.query.degradations.append(f"{component.name}: {type(error).__name__}")
        run.failed |= component.required
        run.source_failed |= stage == "source"

    def _count_error(self, component: Component, error: Exception) -> None:
        self._stats(component).errors += 1
        known = (component.name, type(error))
        if known not in self._logged:
            self._logged.add(known)
            log.error("%s failed; further errors of this kind are only counted", component.name, exc_info=error)

    def _stats(self, component: Component) -> ComponentStats:
        return self.stats.setdefault(component.name, ComponentStats())

    def _note(
        self, stage: str, component: Component, runs: Sequence[Run], entered: Sequence[int], elapsed_ms: float
    ) -> None:
        stats = self._stats(component)
        stats.calls += 1
        stats.total_ms += elapsed_ms
        stats.max_ms = max(stats.max_ms, elapsed_ms)
        for run, before in zip(runs, entered, strict=True):
            stats.entered += before
            stats.left += len(run.candidates)
            run.timings_ms[component.name] = run.timings_ms.get(component.name, 0.0) + elapsed_ms
            if stage in _NARROWING:
                run.funnel.append(Step(stage, component.name, before, len(run.candidates)))

    def _affect(self, results: Sequence[Result]) -> None:
        for effect in self.side_effects:
            try:
                if enabled := [result for result in results if effect.enable(result.query)]:
                    effect.run(enabled)
            except self.passes:
                raise
            except Exception as error:  # the feeds are right without it
                self._count_error(effect, error)
