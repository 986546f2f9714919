"""Delivery, the order that every guarantee rests on.

1. what is served to the viewers' state in Redis (the pipeline's side effects), unless it was answered before;
2. feeds, explanations and the ledger to Redis, announced there;
3. `feeds-served` and dead dead_letters to Kafka, delivered;
4. the requests' offsets.

A worker that dies in between leaves its requests to the next one, which computes them again; what step 2 wrote stays.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from feed_worker.documents.build import explanation_of, feed_of, served_of
from feed_worker.monitoring.metrics import WorkerMetrics
from feed_worker.serving.batch import Batch, Computation
from feed_worker.serving.feed_store import Answer, FeedStore
from infra.ports.clock import Clock
from infra.ports.kafka import Publisher, Record
from infra.ports.redis import Patience
from thunder_ingest.events import unpack_feed_served
from thunder_ingest.posts.store import PostStore

log = logging.getLogger(__name__)


class DocumentBuilder:
    """Makes the documents and records of results.

    Args:
        store: has the published ids of posts; what has left it is not shown.
        clock: tells when a feed was made.

    """

    def __init__(self, store: PostStore, clock: Clock) -> None:
        self._store, self._clock = store, clock

    def answer(self, computation: Computation) -> Answer:
        """The documents of a computation that has ended; should they not come about, those of one that failed."""
        try:
            return self._answer(computation)
        except Exception as error:  # it would fail for the next worker too
            log.error("no document for request %s", computation.asked.request.request_id, exc_info=error)
            computation.end("failed", type(error).__name__)
            return self._answer(computation)

    def _answer(self, computation: Computation) -> Answer:
        result, asked = computation.result, computation.asked
        assert result is not None, "delivered before it was finished"
        feed = feed_of(result, self._store, self._clock.now_ms(), asked.answers)
        explained = explanation_of(result, self._store) if asked.request.explain else None
        return Answer(feed, explained, [served_of(result, feed, request_id) for request_id in feed.answers])


class Delivery:
    """The last step of a batch.

    Args:
        documents: of what came out.
        feeds: where readers find them.
        publisher: to Kafka.
        patience: waits for Redis.
        done: is told batches that are delivered; commits their offsets.
        metrics: counts.
        stopping: ends waiting for Kafka.

    """

    def __init__(
        self,
        documents: DocumentBuilder,
        feeds: FeedStore,
        publisher: Publisher,
        patience: Patience,
        done: Callable[[Batch], None],
        metrics: WorkerMetrics,
        stopping: threading.Event,
    ) -> None:
        self._documents, self._feeds, self._publisher = documents, feeds, publisher
        self._patience, self._done, self._metrics, self._stopping = patience, done, metrics, stopping

    def __call__(self, batch: Batch) -> None:
        """Deliver a batch."""
        self._patience.run(lambda: self._set_apart(batch.computations))
        batch.runner.finish(batch.computations)
        answers = [self._documents.answer(each) for each in batch.computations]
        written = self._patience.run(lambda: self._feeds.write(answers))
        announced_ms = time.time_ns() // 1_000_000
        keys = [answer.feed.user_id.encode() for answer in answers for _ in answer.served]
        records = [Record("feeds-served", key, record) for key, record in zip(keys, written, strict=True)]
        self._publisher.publish([*records, *(each.record for each in batch.dead_letters)], self._stopping.is_set)
        self._publisher.flush(self._stopping.is_set)
        self._done(batch)
        self._metrics.delivered(batch, [unpack_feed_served(record).status for record in written], announced_ms)

    def _set_apart(self, computations: Sequence[Computation]) -> None:
        """What was answered before was served then, not now."""
        requests = [(each.asked.viewer, each.asked.request.request_id) for each in computations]
        for each, is_answered in zip(computations, self._feeds.are_answered(requests), strict=True):
            if is_answered:
                each.skip_side_effects()
