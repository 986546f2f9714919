"""Going over to another model while requests are answered.

1. A model is announced and loaded: its vectors are collected from now on, and all that were written before.
2. Beside that it is compiled, where the one that serves is of another configuration, and rehearsed.
3. Once it has a vector of every post that the one that serves has one of, the next batch is made with it.
4. When the last batch of the one before is through, its vectors are given back.

Whatever goes wrong with an announced model, the worker stays with the one that it has, and tries again now and then: a
checkpoint may be longer on its way than what announces it. What is waited for in 3 comes from the flow, which gives
every post that is stored a vector of the current model. So the wait ends where a flow runs; where none does, or it
cannot read the model either, retrieval is better off with the vectors there are.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Final, Literal, NamedTuple

import numpy as np
from jaxtyping import Int64

from feed_worker.framework.pipeline import Pipeline
from feed_worker.replica.reader import Replica
from feed_worker.serving.worker import Worker
from infra.ports.redis import StopRequested
from infra.ports.settings import Settings
from phoenix.index.retrieval_index import VectorIndex
from phoenix.serving.engine import Phoenix
from phoenix.serving.loading import announced
from phoenix.serving.model_topic import Watch
from thunder_ingest.events import ModelPointer
from thunder_ingest.posts.store import PostStore

log = logging.getLogger(__name__)

POLL_S: Final = 0.5
TOLD_EACH_S: Final = 30.0
AGAIN_S: Final = 30.0
LOOKED_AT: Final = 50_000
"""Posts that are looked up at once: requests wait for the same lock, and not longer than a few milliseconds."""

SwapState = Literal["served", "loading", "collecting", "unusable"]


class ModelStatus(NamedTuple):
    """The model that is announced, and what has become of it here."""

    version: str
    state: SwapState


class NextModel(NamedTuple):
    """A model that is ready but for its vectors; the event is set once those that had been written are there."""

    model: Phoenix
    pipeline: Pipeline
    collected: threading.Event


class ModelSwap:
    """Follows what is announced, in a thread of its own.

    Args:
        settings: where Kafka is.
        model: that is served.
        known: what was announced when the worker began.
        prepare: compiles what a model that comes after another needs, and rehearses; returns its pipeline.
        replica: collects vectors.
        store: the posts.
        index: the vectors.
        worker: serves.
        stopping: ends it.

    Attributes:
        failure: what has ended the thread, should that happen.

    """

    def __init__(
        self,
        settings: Settings,
        model: Phoenix,
        known: ModelPointer | None,
        prepare: Callable[[Phoenix, Phoenix], Pipeline],
        replica: Replica,
        store: PostStore,
        index: VectorIndex,
        worker: Worker,
        stopping: threading.Event,
    ) -> None:
        self._settings, self._model, self._known, self._prepare = settings, model, known, prepare
        self._replica, self._store, self._index, self._worker, self._stopping = replica, store, index, worker, stopping
        self._state: SwapState = "served" if known is None or known.version == model.version else "unusable"
        self._coming: NextModel | None = None
        self._lacking = np.zeros(0, np.int64)
        self._told_s, self._tried_s = -TOLD_EACH_S, time.monotonic()
        self._thread = threading.Thread(target=self._run, name="swap", daemon=True)
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def join(self) -> None:
        """Wait until it has ended, once `stopping` is set: a process must not end while something is compiled."""
        self._thread.join()

    @property
    def status(self) -> ModelStatus | None:
        """What is announced, if anything is."""
        return None if self._known is None else ModelStatus(self._known.version, self._state)

    def _run(self) -> None:
        try:
            with closing(Watch(self._settings, self._known, self._stopping)) as watch:
                while not self._stopping.is_set():
                    self._step(watch.poll(POLL_S))
        except (StopRequested, SystemExit):  # the worker ends
            return
        except BaseException as error:  # the worker's own thread ends the process and says why
            self.failure = error
            raise

    def _step(self, pointer: ModelPointer | None) -> None:
        if pointer is not None and pointer != self._known:
            self._known = pointer
            self._turn_to(pointer)
        elif pointer is not None and self._state == "unusable" and time.monotonic() - self._tried_s > AGAIN_S:
            self._turn_to(pointer)
        elif self._coming is not None and self._is_covered(self._coming):
            self._go_over(self._coming)

    def _turn_to(self, pointer: ModelPointer) -> None:
        """Get a model ready; whichever was on its way is not wanted any more."""
        if self._coming is not None:
            self._replica.forget(self._coming.model.version)
            self._coming = None
        if pointer.version == self._model.version:
            self._state = "served"
            return
        log.info("model %s is announced; it is loaded, and its vectors are collected", pointer.version)
        self._state, self._tried_s = "loading", time.monotonic()
        try:
            model = announced(pointer, self._model)
            collected = self._replica.collect(pointer.version)
            self._coming = NextModel(model, self._prepare(model, self._model), collected)
        except StopRequested:
            raise
        except Exception as error:  # of whatever kind: requests go on being answered with the model that there is
            log.error("%s; this worker stays with %s, and tries again in %d s", error, self._model.version, AGAIN_S)
            self._state = "unusable"
            self._replica.forget(pointer.version)
        else:
            self._state, self._lacking = "collecting", np.zeros(0, np.int64)

    def _is_covered(self, coming: NextModel) -> bool:
        """Whether no post lacks a vector; while some do that did at the last look, there is no need to look at all."""
        was_all = not len(self._lacking)
        self._lacking = self._lacks(coming.model.version, None if was_all else self._lacking)
        if was_all and not len(self._lacking) and coming.collected.is_set():
            return True
        if time.monotonic() - self._told_s > TOLD_EACH_S:
            self._told_s = time.monotonic()
            there = self._index.count(self._model.version)
            log.info("model %s lacks vectors of %d posts of %d", coming.model.version, len(self._lacking), there)
        return False

    def _lacks(self, version: str, among: Int64[np.ndarray, " n"] | None) -> Int64[np.ndarray, " m"]:
        """The posts that the model which serves has vectors of, and another one not; those that are still stored."""
        ids = self._index.lacking(version, self._model.version, among)
        chunks = (ids[start : start + LOOKED_AT] for start in range(0, len(ids), LOOKED_AT))
        return np.concatenate([ids[:0], *(chunk[self._store.rows_of(chunk) >= 0] for chunk in chunks)])

    def _go_over(self, coming: NextModel) -> None:
        before, self._model, self._coming = self._model, coming.model, None
        self._worker.swap(coming.pipeline, coming.model.version)
        while before.version in self._worker.model_versions and not self._stopping.wait(0.02):
            pass
        self._replica.forget(before.version)
        self._state = "served"
        log.info("model %s is served now, instead of %s", coming.model.version, before.version)
