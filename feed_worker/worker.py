"""The worker's loop: requests that wait ▸ one run of the pipeline ▸ feeds in Redis ▸ offsets committed.

The order of writing, which every guarantee rests on:

1. feeds and explanations to Redis, announced there;
2. `feeds-served` and dead letters to Kafka, delivered;
3. the requests' offsets.

A worker that dies in between leaves its requests to the next one, which answers them again.
"""

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from feed_worker.experiments import Experiments
from feed_worker.feed import explanation_of, feed_of, served_of
from feed_worker.feed_store import Answer, FeedStore
from feed_worker.framework import Pipeline, Result
from feed_worker.query import Query
from feed_worker.replica import Replica
from infra.clock import Clock
from infra.dead_letters import dead_letter
from infra.kafka import Publisher, Record, consumer_config, group
from infra.outage import outage
from infra.redis import Client, Patience
from infra.settings import Settings
from phoenix.serving import Phoenix
from thunder_ingest.events import FeedRequest, Refused, decode, encode, pack
from thunder_ingest.ids import id64, published_form
from thunder_ingest.post_store import PostStore

log = logging.getLogger(__name__)

READY_KEY = "foryou:ready"
WAIT_S = 0.2
REBALANCED = {
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError._NO_OFFSET,
}


class Asked(NamedTuple):
    """One computation: the newest of the requests that wait together and want the same, and the ids of all of them."""

    request: FeedRequest
    answers: list[str]


class Worker:
    """Serves feed requests until it is stopped; one of any number in the consumer group."""

    def __init__(
        self,
        settings: Settings,
        pipeline: Pipeline,
        experiments: Experiments,
        store: PostStore,
        model: Phoenix,
        redis: Client,
        clock: Clock,
        stopping: threading.Event,
    ) -> None:
        self._settings, self._pipeline, self._experiments = settings, pipeline, experiments
        self._posts, self._model, self._clock, self._stopping = store, model, clock, stopping
        self._redis, self._feeds = redis, FeedStore(redis, settings.feed_ttl_s)
        self._patience = Patience(settings, stopping)
        self._publisher = Publisher(settings)
        self._outage = outage("Kafka", settings.kafka)
        self._name = f"{socket.gethostname()}-{os.getpid()}"

    def run(self, replica: Replica) -> None:
        """Join the group, say that the worker is ready, and answer requests until `stopping`."""
        consumer = Consumer(consumer_config(self._settings, group(self._settings, "feed-worker")))
        consumer.subscribe(["feed-requests"], on_assign=self._on_assign)
        try:
            while not self._stopping.is_set():
                if replica.failure:
                    raise replica.failure
                if messages := self._waiting(consumer):
                    self.answer(messages)
                    self._commit(consumer, messages)
        finally:
            consumer.close()
            self._patience.run(lambda: self._redis.hdel(READY_KEY, self._name))

    def answer(self, messages: Sequence[Message]) -> None:
        """Answer the requests in messages: steps 1 and 2 of the order above."""
        requests, refused = self._decoded(messages)
        asked = merged(requests)
        results = self._patience.run(lambda: self._pipeline.run([self._query(each.request) for each in asked]))
        answers = [self._answer(each, result) for each, result in zip(asked, results, strict=True)]
        self._patience.run(lambda: self._feeds.write(answers))
        served = [self._served(result, answer) for result, answer in zip(results, answers, strict=True)]
        self._publisher.publish([record for records in served for record in records] + refused)
        self._publisher.flush(self._stopping.is_set)

    def _on_assign(self, _consumer: Consumer, _parts: object) -> None:
        ready = {
            "ready_at": time.time_ns() // 1_000_000,
            "pid": os.getpid(),
            "model_version": self._model.version,
            "clock": self._settings.clock,
        }
        self._patience.run(lambda: self._redis.hset(READY_KEY, self._name, json.dumps(ready)))
        log.info("ready: %d posts, model %s", len(self._posts), self._model.version)

    def _waiting(self, consumer: Consumer) -> list[Message]:
        first = consumer.poll(WAIT_S)  # a batch is what waits: nothing is delayed to fill it
        if first is None:
            return []
        messages = [first, *consumer.consume(self._settings.max_batch - 1, 0)]
        for error in filter(None, (message.error() for message in messages)):
            if not error.retriable():
                raise KafkaException(error)
        return [message for message in messages if message.error() is None]

    def _decoded(self, messages: Sequence[Message]) -> tuple[list[FeedRequest], list[Record]]:
        requests: list[FeedRequest] = []
        refused: list[Record] = []
        latest_ms = time.time_ns() // 1_000_000 + self._settings.future_tolerance_ms
        for message in messages:
            try:
                request: FeedRequest = decode("feed-requests", message.value())
                if request.at > latest_ms:
                    raise Refused("`at` is too far in the future - at `$.at`")
            except Refused as reason:
                refused.append(dead_letter(message, reason))
            else:
                requests.append(request)
                self._clock.observe(request.at)
        return requests, refused

    def _query(self, request: FeedRequest) -> Query:
        now_ms, user_id = self._clock.now_ms(), id64(request.user_id)
        assigned = self._experiments.assign(user_id)
        return Query(
            request=request,
            user_id=user_id,
            user_form=published_form(request.user_id),
            now_ms=now_ms,
            deadline_at=request.at + (request.deadline_ms or self._settings.deadline_ms),
            size=request.size or self._settings.feed_size,
            parameters=assigned.parameters,
            experiments=assigned.experiments,
        )

    def _answer(self, asked: Asked, result: Result) -> Answer:
        feed = feed_of(result, self._posts, self._model.version, self._clock.now_ms(), asked.answers)
        explained = explanation_of(result, self._posts) if asked.request.explain else None
        return Answer(feed, explained)

    def _served(self, result: Result, answer: Answer) -> list[Record]:
        key = result.query.user_form.encode()
        return [Record("feeds-served", key, pack(served_of(result, answer.feed, each))) for each in answer.feed.answers]

    def _commit(self, consumer: Consumer, messages: Sequence[Message]) -> None:
        next_offsets: dict[tuple[str, int], int] = {}
        for message in messages:
            next_offsets[message.topic() or "", message.partition() or 0] = (message.offset() or 0) + 1
        offsets = [TopicPartition(*part, offset) for part, offset in next_offsets.items()]
        while not self._stopping.is_set():
            try:
                consumer.commit(offsets=offsets, asynchronous=False)
            except KafkaException as error:
                cause = error.args[0]
                if cause.code() in REBALANCED:
                    log.warning("requests went to another worker before they were committed: %s", cause.str())
                    return
                self._outage.begins(cause.str())
                self._stopping.wait(0.5)
            else:
                self._outage.ends()
                return


def merged(requests: Sequence[FeedRequest]) -> list[Asked]:
    """What has to be computed: requests of one user that want the same are answered by the newest's computation.

    Returns:
        computations in the order of their requests' time, so that the newest of a user is written last.

    """
    groups: dict[bytes, list[FeedRequest]] = {}
    for request in requests:
        groups.setdefault(_wish(request), []).append(request)
    asked = [
        Asked(max(group_, key=lambda each: each.at), [each.request_id for each in group_]) for group_ in groups.values()
    ]
    return sorted(asked, key=lambda each: each.request.at)


def _wish(request: FeedRequest) -> bytes:
    form = published_form(request.user_id)
    return encode(msgspec.structs.replace(request, request_id="-", user_id=form, at=1, deadline_ms=None))
