"""Each row of the table of errors, injected into the flow, the worker and the client."""

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NoReturn

import pytest
import redis

import infra.ports.redis
from feed_worker.client.redis_reads import RedisReads
from feed_worker.query_hydrators.user_state import UserStateHydrator
from feed_worker.serving.batch import BatchRunner, Computation
from feed_worker.serving.feed_store import Answer, FeedStore
from flows import engagements
from flows.engagements import UserSink, UserWrites
from infra.ports.broken_keys import broken_keys
from infra.ports.error_table import Reaction
from infra.ports.errors import RedisRefused, RedisUnreachable
from infra.ports.outage import outage
from infra.ports.redis import REDIS_ERRORS, RedisRetry, connect
from infra.ports.settings import Settings, load
from tests.feed_worker.builders import query
from tests.feed_worker.client.answering import feed_of
from tests.feed_worker.scripted import pipeline as scripted
from tests.infra.faulty_redis import FaultyRedis, faulty_redis
from tests.infra.ports.test_error_table import REPLIES
from tests.thunder_ingest.users.users import edge
from thunder_ingest.events import Block, FeedServed
from thunder_ingest.events.redis_keys import feed_key, user_key
from thunder_ingest.users.entries import entries_by_user
from thunder_ingest.users.positions import Span
from thunder_ingest.users.redis_form import UserStates
from thunder_ingest.users.register import declare_whole

Act = Callable[[Settings], bool]
"""Does the work for the users 7 and 8; True if it was done for 7. The work for 8 must be done."""


class Ended(Exception):
    """The process has ended with exit code 1."""


@pytest.fixture
def faulty(valkey: redis.Redis, valkey_url: str) -> Iterator[FaultyRedis]:
    declare_whole(valkey)

    def connected() -> socket.socket:
        found = socket.socket(socket.AF_UNIX)
        found.connect(valkey_url.removeprefix("unix://"))
        return found

    with faulty_redis(connected) as proxy:
        yield proxy


@pytest.fixture
def settings(faulty: FaultyRedis, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(infra.ports.redis, "_RETRY_S", 0.01)
    monkeypatch.setattr("infra.ports.outage.SETTLE_S", 0.0)
    return load(redis=faulty.url)


def flow_write(settings: Settings) -> bool:
    def exit_now(error: object) -> NoReturn:
        raise Ended from (error if isinstance(error, Exception) else None)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(engagements, "exit_now", exit_now)
        writer = UserSink(settings).build("", 0, 1)
        blocks = [edge(Block, 1, user=user, target=9) for user in (7, 8)]
        writer.write_batch([UserWrites(entries_by_user(blocks), "g0-0-1", Span("social-graph-0", 0, 2))])
    with redis.Redis.from_url(settings.redis) as client:
        assert client.hexists(user_key("8"), "blocks+g0-0-1")
        return bool(client.hexists(user_key("7"), "blocks+g0-0-1"))


def worker_read(settings: Settings) -> bool:
    client = connect(settings)
    pipeline = replace(scripted(query_hydrators=[UserStateHydrator(UserStates(client))]), passes=REDIS_ERRORS)
    retry = RedisRetry(settings, threading.Event(), client)
    runner = BatchRunner(pipeline, "m", retry, lambda each: query(user_id=each.user_id))
    seven, eight = (Computation(None, query(user_id=user)) for user in (7, 8))  # type: ignore[arg-type]
    try:
        runner.gather([seven, eight])
    finally:
        client.close()
    assert eight.run is not None
    assert not eight.run.failed
    assert seven.run is not None
    if seven.run.failed:
        assert seven.query.degradations[0].startswith("user_state_hydrator: user:{7} in Redis cannot be read")
    return not seven.run.failed


def worker_write(settings: Settings) -> bool:
    client = connect(settings)
    feeds = [feed_of(user, "r") for user in (7, 8)]
    facts = {"at": 1, "served_at": 1, "status": "ok", "model_version": "m", "parameters": "p"}
    served = [FeedServed(request_id="r", user_id=user, user_form=str(user), **facts) for user in (7, 8)]  # type: ignore[arg-type]
    store = FeedStore(client, 60)
    answers = [Answer(feed, None, [record]) for feed, record in zip(feeds, served, strict=True)]
    try:
        records = RedisRetry(settings, threading.Event(), client).run(lambda: store.write(answers))
        assert len(records) == 2
        assert client.exists(feed_key("8"))
        return bool(client.exists(feed_key("7")))
    finally:
        client.close()


PROCESSES: dict[str, tuple[Act, str, str]] = {
    "flow": (flow_write, "HSET", user_key("7")),
    "worker's read": (worker_read, "HGETALL", user_key("7")),
    "worker's write": (worker_write, "EVAL", feed_key("7")),
}


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("text", REPLIES)
def test_each_process_reacts_as_the_table_says(
    settings: Settings, faulty: FaultyRedis, text: str, process: str
) -> None:
    act, command, key = PROCESSES[process]
    reaction, skipped, outages = REPLIES[text], broken_keys.count, outage("Redis", settings.redis)
    before = outages.count
    if reaction is Reaction.SKIP:
        faulty.fail_key(text, key)
        assert not act_beside(faulty, act, settings)
        assert broken_keys.count > skipped or process == "worker's read"
        return
    faulty.fail(text, command, times=2)
    if reaction is Reaction.END:
        with pytest.raises((Ended, RedisRefused)):
            act(settings)
        assert outages.count == before
        return
    assert act(settings)
    assert (outages.count, outages.problem) == (before + 1, None)
    faulty.fail(text, command)
    if reaction is Reaction.RETRY:
        with pytest.raises((Ended, RedisRefused)):
            act(settings)


def act_beside(faulty: FaultyRedis, act: Act, settings: Settings) -> bool:
    """Act; the checks of the test itself meet no fault."""
    fault = faulty.fault
    faulty.fault = lambda command: None if command[0] in (b"HEXISTS", b"EXISTS") else fault(command)
    return act(settings)


@pytest.mark.parametrize("text", REPLIES)
def test_a_client_raises_only_what_is_documented(settings: Settings, faulty: FaultyRedis, text: str) -> None:
    reads = RedisReads(settings)
    faulty.fail(text, "GET", times=1)
    if REPLIES[text] is Reaction.SKIP:
        assert reads.read([("GET", feed_key("7"))]) == [None]
    else:
        with pytest.raises(RedisUnreachable, match=settings.redis):
            reads.read([("GET", feed_key("7"))])
    assert reads.read([("GET", feed_key("7"))]) == [None]
    reads.close()


def test_after_readonly_the_next_command_uses_a_new_connection(settings: Settings, faulty: FaultyRedis) -> None:
    client = RedisRetry(settings, threading.Event()).connect()
    retry = RedisRetry(settings, threading.Event(), client)
    retry.run(lambda: client.set("a", 1))
    before = faulty.connections
    faulty.fail("READONLY You can't write against a read only replica.", "SET", times=1)
    retry.run(lambda: client.set("a", 1))
    assert faulty.connections == before + 1
    client.close()


def test_a_wrong_password_ends_a_start_at_once(faulty: FaultyRedis) -> None:
    faulty.fail("WRONGPASS invalid username-password pair or user is disabled.", "AUTH", "HELLO")
    settings = load(redis=faulty.url.replace("://", "://:secret@"))
    with pytest.raises(RedisRefused, match="check user, password"):
        RedisRetry(settings, threading.Event()).connect()
    with pytest.raises(RedisRefused) as refused:
        RedisReads(settings)
    assert "secret" not in str(refused.value)
