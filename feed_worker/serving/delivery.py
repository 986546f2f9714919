"""Delivery of a batch. All guarantees rest on the order of its writes.

1. served posts to the viewers' state in Redis (the pipeline's side effects), unless the request was answered before;
2. feeds, explanations and the ledger to Redis, with a message on the ready channel;
3. `feeds-served` and dead letters to Kafka, flushed;
4. the offsets of the requests.

If a worker dies between two steps, the next worker computes the requests again; the writes of step 2 stay.
"""

import logging
from collections.abc import Callable, Sequence

from feed_worker.documents.build import explanation_of, feed_of, served_of
from feed_worker.monitoring.metrics import WorkerMetrics
from feed_worker.serving.batch import Batch, Computation
from feed_worker.serving.feed_store import Answer, FeedStore
from infra.ports.clock import Clock, now_ms
from infra.ports.producer import Record
from infra.ports.record_writer import RecordWriter
from infra.ports.redis import RedisRetry
from thunder_ingest.events import unpack_feed_served
from thunder_ingest.posts.store import PostStore

log = logging.getLogger(__name__)


class DocumentBuilder:
    """Makes the feed, the explanation and the records of a computation. For the delivery thread.

    Args:
        store: has the published ids of posts; a post that has left it is not shown.
        clock: stamps feeds.

    """

    def __init__(self, store: PostStore, clock: Clock) -> None:
        self._store, self._clock = store, clock

    def answer(self, computation: Computation) -> Answer:
        """The documents of a computation that has ended; those of a `failed` one if they cannot be made."""
        try:
            return self._answer(computation)
        except Exception as error:  # the next worker would fail, too
            log.error("no document for request %s", computation.merged.request.request_id, exc_info=error)
            computation.end("failed", type(error).__name__)
            return self._answer(computation)

    def _answer(self, computation: Computation) -> Answer:
        result, merged = computation.result, computation.merged
        assert result is not None, "delivered before it was finished"
        feed = feed_of(result, self._store, self._clock.now_ms(), merged.request_ids)
        explained = explanation_of(result, self._store) if merged.request.explain else None
        return Answer(feed, explained, [served_of(result, feed, request_id) for request_id in feed.answers])


class Delivery:
    """The last step of a batch. For the delivery thread.

    Args:
        documents: makes the documents.
        feeds: writes them to Redis.
        writer: writes records to Kafka.
        redis_retry: repeats commands during an outage of Redis.
        done: called with each delivered batch; commits its offsets.
        metrics: counts requests and latencies.

    """

    def __init__(
        self,
        documents: DocumentBuilder,
        feeds: FeedStore,
        writer: RecordWriter,
        redis_retry: RedisRetry,
        done: Callable[[Batch], None],
        metrics: WorkerMetrics,
    ) -> None:
        self._documents, self._feeds, self._writer = documents, feeds, writer
        self._redis_retry, self._done, self._metrics = redis_retry, done, metrics

    def __call__(self, batch: Batch) -> None:
        """Deliver a batch; on any error the worker ends, and the next one computes the batch again.

        Raises:
            StopRequested: the worker is to end while Redis or Kafka is away.
            DeliveryFailed: Kafka refuses the process.
            redis.RedisError: Redis refuses a command.

        """
        self._redis_retry.run(lambda: self._skip_answered(batch.computations))
        batch.runner.finish(batch.computations)
        checks = [self._documents.answer(each).feed for each in batch.computations if each.query.is_check]
        answers = [self._documents.answer(each) for each in batch.computations if not each.query.is_check]
        self._redis_retry.run(lambda: self._feeds.write_previews(checks))
        written = self._redis_retry.run(lambda: self._feeds.write(answers))
        announced_ms = now_ms()
        keys = [answer.feed.user_id.encode() for answer in answers for _ in answer.served]
        records = [Record("feeds-served", key, record) for key, record in zip(keys, written, strict=True)]
        self._writer.publish([*records, *(each.record for each in batch.dead_letters)])
        self._writer.deliver()
        self._done(batch)
        statuses = [feed.status for feed in checks for _ in feed.answers]
        statuses += [unpack_feed_served(record).status for record in written]
        self._metrics.batch_delivered(batch, statuses, announced_ms)

    def _skip_answered(self, computations: Sequence[Computation]) -> None:
        """Skip the side effects of requests that are in the ledger: their posts were served with the first answer."""
        requests = [(each.merged.viewer, each.merged.request.request_id) for each in computations]
        for each, is_answered in zip(computations, self._feeds.are_answered(requests), strict=True):
            if is_answered:
                log.info("request %s was answered before; the first answer stands", each.merged.request.request_id)
                each.skip_side_effects()
                self._metrics.request_repeated()
