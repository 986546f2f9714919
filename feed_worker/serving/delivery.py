"""Delivery of a batch. All guarantees rest on the order of its writes.

Redis and Kafka may make the delivery wait for seconds or minutes. So each attempt begins with the final checks: the
labels, deletions and account states of now, and the deadline. Requests that were computed before a long wait are
computed again, since the viewers' blocks and mutes may have changed, too.

1. served posts to the viewers' state in Redis (the pipeline's side effects), unless the request was answered before;
2. feeds, explanations and the ledger to Redis, with a message on the ready channel;
3. `feeds-served` and dead letters to Kafka, flushed;
4. the offsets of the requests.

If a worker dies between two steps, the next worker computes the requests again; the writes of step 2 stay.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from feed_worker.documents.build import explanation_of, feed_of, served_of
from feed_worker.documents.feed import Feed
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

LONG_WAIT_S: Final = 1.0
"""A wait for a server after which requests are computed again."""

CHECKED_S: Final = 0.1
"""The age of the final checks above which they are repeated before the feeds are written."""


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
        served = [served_of(result, feed, request_id) for request_id in feed.answers]
        return Answer(feed, explained, served, withdraws=feed.status == "empty" and result.query.is_unrestricted)


class Delivery:
    """The last step of a batch. For the delivery thread.

    Attributes:
        waited_until_s: the end of the last wait for a server of more than LONG_WAIT_S, by `time.monotonic()`.

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
        self._began_s = self.waited_until_s = 0.0

    def __call__(self, batch: Batch) -> None:
        """Deliver a batch; on any error the worker ends, and the next one computes the batch again.

        Raises:
            StopRequested: the worker is to end while Redis or Kafka is away.
            DeliveryFailed: Kafka refuses the process.
            redis.RedisError: Redis refuses a command.

        """
        self._began_s = time.monotonic()
        checks, answers, written = self._redis_retry.run(lambda: self._write(batch))
        announced_ms = now_ms()
        keys = [answer.feed.user_id.encode() for answer in answers for _ in answer.served]
        records = [Record("feeds-served", key, record) for key, record in zip(keys, written, strict=True)]
        self._writer.publish([*records, *(each.record for each in batch.dead_letters)])
        self._writer.deliver()
        self._note_wait()
        self._done(batch)
        statuses = [feed.status for feed in checks for _ in feed.answers]
        statuses += [unpack_feed_served(record).status for record in written]
        self._metrics.batch_delivered(batch, statuses, announced_ms)

    def _write(self, batch: Batch) -> tuple[list[Feed], list[Answer], list[bytes]]:
        """One attempt to write the feeds of a batch: the previews, the answers, and the records that count."""
        computations, runner = batch.computations, batch.runner
        self._note_answered(computations)
        self._note_wait()
        self._compute_outdated(batch)
        runner.finish(computations)
        checked_s = time.monotonic()
        runner.run_side_effects(computations)
        if time.monotonic() - checked_s > CHECKED_S:
            runner.finish(computations)
        checks = [self._documents.answer(each).feed for each in computations if each.query.is_check]
        answers = [self._documents.answer(each) for each in computations if not each.query.is_check]
        self._feeds.write_previews(checks)
        return checks, answers, self._feeds.write(answers)

    def _note_answered(self, computations: Sequence[Computation]) -> None:
        """Note requests that are in the ledger: their posts were served with the first answer."""
        requests = [(each.merged.viewer, each.merged.request.request_id) for each in computations]
        for each, is_answered in zip(computations, self._feeds.are_answered(requests), strict=True):
            if is_answered and not each.is_answered:
                each.is_answered = True
                log.info("request %s was answered before; the first answer stands", each.merged.request.request_id)
                self._metrics.request_repeated()

    def _note_wait(self) -> None:
        """Note the end of a wait for a server, if the time since the begin of the delivery was long."""
        now_s = time.monotonic()
        if now_s - self._began_s > LONG_WAIT_S:
            self.waited_until_s = now_s

    def _compute_outdated(self, batch: Batch) -> None:
        """Compute the requests again whose viewers were read before the end of a long wait."""
        outdated = [
            each
            for each in batch.computations
            if each.run is not None and not each.is_answered and each.query.made_at_s < self.waited_until_s
        ]
        if outdated:
            log.debug("%d requests are computed again: they waited for a server", len(outdated))
            batch.runner.compute_again(outdated)
            self._began_s = time.monotonic()
