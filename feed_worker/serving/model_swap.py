"""The swap to another model while requests are answered (hot swap).

1. A model is announced. The swap thread loads it, and the replica collects its vectors: new ones, and all that are in
   the log.
2. Meanwhile the model is compiled, if its configuration differs, and its pipeline is warmed up.
3. The next batch is made with the new model once it has a vector of every post that has one of the old model.
4. After the last batch of the old model, its vectors are dropped.

If a model cannot be used, the worker keeps the old one and tries again every `RETRY_S`: the checkpoint may arrive
after its announcement. Step 3 depends on the flow that embeds every stored post with the current model. If no flow
runs, or the flow cannot read the model either, the swap waits, since retrieval works with the old vectors.
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
from infra.ports.errors import StopRequested
from infra.ports.settings import Settings
from phoenix.index.retrieval_index import VectorIndex
from phoenix.serving.engine import Phoenix
from phoenix.serving.loading import load_announced
from phoenix.serving.model_topic import ModelWatcher
from thunder_ingest.events import ModelPointer
from thunder_ingest.posts.store import PostStore

log = logging.getLogger(__name__)

POLL_S: Final = 0.5
LOG_EACH_S: Final = 30.0
RETRY_S: Final = 30.0
CHUNK_POSTS: Final = 50_000
"""Posts that are looked up under one hold of the store's lock: requests wait for it, a few milliseconds at most."""

SwapState = Literal["served", "loading", "collecting", "unusable"]


class ModelStatus(NamedTuple):
    """The announced model and its state in this worker."""

    version: str
    state: SwapState


class NextModel(NamedTuple):
    """A loaded and warm model; `collected` is set once all vectors that were in the log are in the index."""

    model: Phoenix
    pipeline: Pipeline
    collected: threading.Event


class ModelSwap:
    """Follows the announced model in a thread of its own.

    `start` and `join` belong to the main thread; `status` and `failure` are for any thread.

    Args:
        settings: the address of Kafka.
        model: the model that serves.
        known: the announcement that the worker started with.
        prepare: called with the next model and the one that serves; compiles, warms up, returns the next pipeline.
        replica: collects vectors.
        store: the posts.
        index: the vectors.
        worker: serves.
        stopping: ends the thread once it is set.

    Attributes:
        failure: the error that ended the thread; None while it runs.

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
        self._next: NextModel | None = None
        self._missing = np.zeros(0, np.int64)
        self._logged_at_s, self._tried_at_s = -LOG_EACH_S, time.monotonic()
        self._thread = threading.Thread(target=self._run, name="swap", daemon=True)
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self) -> None:
        """Wait for the thread, after `stopping` was set: the process must not end during a compilation."""
        self._thread.join()

    @property
    def status(self) -> ModelStatus | None:
        """The announced model and its state; None if no model was announced."""
        return None if self._known is None else ModelStatus(self._known.version, self._state)

    def _run(self) -> None:
        try:
            with closing(ModelWatcher(self._settings, self._known, self._stopping)) as watch:
                while not self._stopping.is_set():
                    self._step(watch.poll(POLL_S))
        except (StopRequested, SystemExit):  # the worker ends
            return
        except BaseException as error:  # the worker's main thread raises it and ends the process
            self.failure = error
            raise

    def _step(self, pointer: ModelPointer | None) -> None:
        if pointer is not None and pointer != self._known:
            self._known = pointer
            self._load(pointer)
        elif pointer is not None and self._state == "unusable" and time.monotonic() - self._tried_at_s > RETRY_S:
            self._load(pointer)
        elif self._next is not None and self._is_complete(self._next):
            self._switch(self._next)

    def _load(self, pointer: ModelPointer) -> None:
        """Load and warm up a model; an earlier one that was not yet switched to is dropped."""
        if self._next is not None:
            self._replica.drop_vectors(self._next.model.version)
            self._next = None
        if pointer.version == self._model.version:
            self._state = "served"
            return
        log.info("model %s is announced; it is loaded, and its vectors are collected", pointer.version)
        self._state, self._tried_at_s = "loading", time.monotonic()
        try:
            model = load_announced(pointer, self._model)
            collected = self._replica.collect_vectors(pointer.version)
            self._next = NextModel(model, self._prepare(model, self._model), collected)
        except StopRequested:
            raise
        except Exception as error:  # of any kind: the model that serves goes on
            log.error("%s; this worker stays with %s, and tries again in %d s", error, self._model.version, RETRY_S)
            self._state = "unusable"
            self._replica.drop_vectors(pointer.version)
        else:
            self._state, self._missing = "collecting", np.zeros(0, np.int64)

    def _is_complete(self, next_: NextModel) -> bool:
        """True if every post has a vector of the next model.

        A full scan runs only after the posts that the last scan found without a vector have got one.
        """
        full_scan = not len(self._missing)
        self._missing = self._without_vector(next_.model.version, None if full_scan else self._missing)
        if full_scan and not len(self._missing) and next_.collected.is_set():
            return True
        if time.monotonic() - self._logged_at_s > LOG_EACH_S:
            self._logged_at_s = time.monotonic()
            count = self._index.count(self._model.version)
            log.info("model %s lacks vectors of %d posts of %d", next_.model.version, len(self._missing), count)
        return False

    def _without_vector(self, version: str, among: Int64[np.ndarray, " n"] | None) -> Int64[np.ndarray, " m"]:
        """The stored posts that have a vector of the model that serves and none of `version`; of `among`, if given."""
        ids = self._index.lacking(version, self._model.version, among)
        chunks = (ids[start : start + CHUNK_POSTS] for start in range(0, len(ids), CHUNK_POSTS))
        return np.concatenate([ids[:0], *(chunk[self._store.rows_of(chunk) >= 0] for chunk in chunks)])

    def _switch(self, next_: NextModel) -> None:
        before, self._model, self._next = self._model, next_.model, None
        self._worker.swap(next_.pipeline, next_.model.version)
        while before.version in self._worker.model_versions and not self._stopping.wait(0.02):
            pass
        self._replica.drop_vectors(before.version)
        self._state = "served"
        log.info("model %s is served now, instead of %s", next_.model.version, before.version)
