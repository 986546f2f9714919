import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import redis
from confluent_kafka import Message
from rich.console import Console

from flows.engagements import UserWrites
from infra.ops import rebuild_users as rebuild
from infra.ops.rebuild_users import RebuildResult
from infra.ports.clock import now_ms
from infra.ports.errors import StateMissing
from infra.ports.kafka_admin import create_topics, ends_of
from infra.ports.producer import KafkaProducer, Record
from infra.ports.settings import Settings, load
from infra.ports.topic_reader import scan
from infra.stack.embedded import EmbeddedKafka
from infra.terminal.progress import Advance
from infra.terminal.state import rebuild_summary
from tests.flows.test_redis_failover import Past, writer_of
from tests.infra.cli.foryou import foryou, write
from thunder_ingest.events import (
    Block,
    Engagement,
    EngagementEvent,
    Follow,
    GraphEvent,
    Impression,
    Unfollow,
    encode,
    key_of,
    topic_of,
)
from thunder_ingest.events.ids import published_form
from thunder_ingest.events.redis_keys import MARK_KEY, user_key
from thunder_ingest.users.entries import updates_of
from thunder_ingest.users.positions import Span
from thunder_ingest.users.redis_form import UserStates

pytestmark = pytest.mark.embedded

NOW = now_ms() - 60_000  # an event ahead of its arrival would count as of the arrival
OLDEST = NOW - 3_600_000
EVENTS: Sequence[EngagementEvent | GraphEvent] = [
    Follow(user_id="did:plc:ana", target_id=7, at=NOW),
    Follow(user_id="did:plc:ana", target_id=8, at=NOW),
    Unfollow(user_id="did:plc:ana", target_id=8, at=NOW + 1),
    Block(user_id="did:plc:ana", target_id=9, at=NOW),
    Impression(user_id=2, post_id=10, author_id=7, at=OLDEST),
    *(Engagement(user_id=1, post_id=n, author_id=7, action="favorite", at=NOW + n) for n in range(1, 300)),
]


def record(event: EngagementEvent | GraphEvent) -> Record:
    return Record(topic_of(event), published_form(key_of(event)).encode(), encode(event))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a Kafka with a log of its own: other tests publish to the shared one."""
    directory: Path = tmp_path_factory.mktemp("kafka")
    with EmbeddedKafka(directory) as kafka:
        settings = load(kafka=kafka.address, partitions=2)
        create_topics(settings)
        late = Follow(user_id=3, target_id=4, at=NOW + 10 * 3_600_000)
        broken = Record("engagements", b"1", b"nonsense")
        write(settings, *map(record, EVENTS), record(late), broken, Record("engagements", b"1", None))
        yield settings


@pytest.fixture
def settings(log: Settings, valkey: redis.Redis, valkey_url: str) -> Settings:
    """The log, with an empty Redis."""
    return log.model_copy(update={"redis": valkey_url})


def run(settings: Settings) -> RebuildResult:
    return rebuild.run(settings, Console(file=sys.stderr))


def states(client: redis.Redis) -> list[dict[str, object]]:
    found = UserStates(client).read(["did:plc:ana", "1", "2", "9", "3"])
    names = ("positions", "following", "blocks", "blocked_by", "seen", "served_ids")
    return [{name: getattr(state, name).tolist() for name in names} for state in found]


def expected(valkey: redis.Redis) -> list[dict[str, object]]:
    """The state that the flows would have written."""
    UserStates(valkey).append([update for event in EVENTS for update in updates_of(event)], "0-0-0")
    whole = states(valkey)
    valkey.flushall()
    return whole


def test_a_rebuild_restores_every_user_of_an_emptied_redis(settings: Settings, valkey: redis.Redis) -> None:
    whole = expected(valkey)
    rebuilt = run(settings)
    assert states(valkey) == whole
    assert (rebuilt.read, rebuilt.used, rebuilt.refused) == (len(EVENTS) + 3, len(EVENTS), 3)
    assert rebuilt.users == 4  # including the blocked user


def test_the_result_has_the_time_of_the_oldest_engagement(settings: Settings) -> None:
    rebuilt = run(settings)
    assert rebuilt.oldest_engagement_at == OLDEST
    summary = rebuild_summary(rebuilt)
    assert summary.startswith("4 users written from 304 events, 3 refused; the history begins at 20")
    assert summary.endswith("; the graph is complete")
    assert "no engagement" in rebuild_summary(RebuildResult())


def are_whole(client: redis.Redis) -> list[bool]:
    return [state.is_whole for state in UserStates(client).read(["did:plc:ana", "1", "2", "9", "999"])]


def test_after_a_rebuild_of_an_emptied_redis_every_user_is_whole(settings: Settings, valkey: redis.Redis) -> None:
    assert are_whole(valkey) == [False] * 5
    run(settings)
    assert are_whole(valkey) == [True] * 5
    valkey.delete(user_key("did:plc:ana"))
    assert are_whole(valkey) == [False, True, True, True, True]
    UserStates(valkey).append(updates_of(Follow(user_id="did:plc:ana", target_id=70, at=NOW)), "0-9-9")
    assert are_whole(valkey) == [False, True, True, True, True]
    run(settings)
    assert are_whole(valkey) == [True] * 5


def test_a_user_who_is_lost_during_a_rebuild_stays_lost_until_the_next(
    settings: Settings, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = rebuild._Rebuild.finish

    def interrupted(self: rebuild._Rebuild) -> None:
        valkey.delete(user_key("1"))
        UserStates(valkey).append(updates_of(Follow(user_id=1, target_id=70, at=NOW)), "0-9-9")
        assert are_whole(valkey) == [False] * 5  # none before the end
        finish(self)

    with monkeypatch.context() as patched:
        patched.setattr(rebuild._Rebuild, "finish", interrupted)
        run(settings)
    assert are_whole(valkey) == [True, False, True, True, True]
    run(settings)
    assert are_whole(valkey) == [True] * 5


def test_a_redis_that_is_emptied_during_a_rebuild_ends_it(
    settings: Settings, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = rebuild._Rebuild.finish

    def interrupted(self: rebuild._Rebuild) -> None:
        valkey.flushall()
        finish(self)

    monkeypatch.setattr(rebuild._Rebuild, "finish", interrupted)
    with pytest.raises(StateMissing, match="lost keys during the rebuild"):
        run(settings)
    assert are_whole(valkey) == [False] * 5


def test_a_rebuild_heals_a_user_whose_events_have_all_left_the_log(settings: Settings, valkey: redis.Redis) -> None:
    run(settings)
    users = UserStates(valkey)
    users.append(updates_of(Follow(user_id=500, target_id=501, at=NOW)), "0-9-9")
    valkey.delete(user_key("500"))
    assert not users.read(["500"])[0].is_whole
    run(settings)
    (state,) = users.read(["500"])
    assert state.is_whole
    assert not len(state.following)


@pytest.mark.parametrize("mark_is_lost", [False, True])
@pytest.mark.parametrize("when", ["between two writes", "at the end"])
def test_a_redis_that_goes_back_in_time_during_a_rebuild_ends_it(
    settings: Settings, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch, when: str, mark_is_lost: bool
) -> None:
    run(settings)
    valkey.delete(user_key("1"), *([MARK_KEY] if mark_is_lost else []))
    write_batch, finish, pasts = rebuild._Rebuild._write, rebuild._Rebuild.finish, list[Past]()

    def write_and_remember(self: rebuild._Rebuild, messages: Sequence[Message]) -> None:
        if when == "between two writes" and len(pasts) == 1:
            pasts[0].returns()
        pasts.append(Past(valkey))
        write_batch(self, messages)

    def go_back(self: rebuild._Rebuild) -> None:
        if when == "at the end":
            pasts[-1].returns()
        finish(self)

    monkeypatch.setattr(rebuild._Rebuild, "_write", write_and_remember)
    monkeypatch.setattr(rebuild._Rebuild, "finish", go_back)
    with pytest.raises(StateMissing, match="lost keys during the rebuild"):
        run(settings)
    assert not are_whole(valkey)[1]
    monkeypatch.undo()
    run(settings)
    assert are_whole(valkey) == [True] * 5


def test_a_flow_needs_no_second_rebuild_for_a_loss_that_a_rebuild_has_healed(
    settings: Settings, valkey: redis.Redis
) -> None:
    ends = ends_of(settings, rebuild.TOPICS)
    idle = [UserWrites({}, "", Span(f"{topic}-{part}", end, end)) for (topic, part), end in ends.items()]
    writer = writer_of(settings)
    writer.write_batch(idle)
    valkey.flushall()
    run(settings)
    writer.write_batch(idle)
    assert are_whole(valkey) == [True] * 5


def test_a_key_of_another_type_is_skipped_by_a_rebuild_and_counted(settings: Settings, valkey: redis.Redis) -> None:
    valkey.set(user_key("9"), "x")
    rebuilt = run(settings)
    assert rebuilt.skipped == 1
    assert "1 skipped" in rebuild_summary(rebuilt)
    valkey.delete(user_key("9"))
    assert are_whole(valkey) == [True, True, True, False, True]
    assert run(settings).skipped == 0
    assert are_whole(valkey) == [True] * 5


def test_a_repeated_or_interrupted_rebuild_gives_the_same_state(settings: Settings, valkey: redis.Redis) -> None:
    run(settings)
    whole = states(valkey)
    valkey.delete(user_key("1"))
    run(settings)
    run(settings)
    assert states(valkey) == whole


def test_a_rebuild_joins_the_stored_state_and_replaces_nothing(settings: Settings, valkey: redis.Redis) -> None:
    users = UserStates(valkey)
    older = Engagement(user_id=1, post_id=999, author_id=7, action="reply", at=OLDEST - 1)
    users.append(updates_of(older), "e0-1-1")
    users.add_served("1", [5], NOW, "r")
    run(settings)
    (state,) = users.read(["1"])
    assert 999 in state.positions["post_id"]
    assert len(state.positions) == 300
    assert state.served_ids.tolist() == [5]


def test_a_flow_that_writes_during_a_rebuild_loses_nothing(settings: Settings, valkey: redis.Redis) -> None:
    done = threading.Event()
    written = list[int]()

    def flow() -> None:
        users = UserStates(redis.Redis(connection_pool=valkey.connection_pool))
        while not done.is_set():
            post_id = 10_000 + len(written)
            event = Engagement(user_id=1, post_id=post_id, author_id=7, action="click", at=NOW + post_id)
            users.append(updates_of(event), f"e0-{post_id}-{post_id}")
            written.append(post_id)
            time.sleep(0.002)

    running = threading.Thread(target=flow)
    running.start()
    run(settings)
    done.set()
    running.join()
    (state,) = UserStates(valkey).read(["1"])
    kept = set(state.positions["post_id"].tolist())
    assert set(written[-600:]) <= kept
    if len(written) < 700:
        assert set(range(1, 300)) <= kept


def test_a_rebuild_of_a_growing_log_ends(servers: Settings, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    growing = servers.model_copy(update={"redis": valkey_url})
    write(growing, record(Follow(user_id=70, target_id=71, at=NOW)))
    monkeypatch.setattr("infra.ports.topic_reader.IDLE_S", 0.05)
    monkeypatch.setattr("infra.ports.topic_reader.SETTLE_S", 0.2)
    done = threading.Event()

    def app() -> None:
        producer = KafkaProducer(growing)
        while not done.is_set():
            producer.publish([record(Follow(user_id=70, target_id=71, at=NOW))])
            producer.flush()

    running = threading.Thread(target=app)
    running.start()
    try:
        assert run(growing).used
    finally:
        done.set()
        running.join()


def test_an_expired_start_of_the_log_is_reported(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_the_first(settings: Settings, topics: Sequence[str], advance: Advance) -> Iterator[list[Message]]:
        # the embedded broker does not delete records when asked to
        for messages in scan(settings, topics, advance):
            yield [each for each in messages if each.offset() or each.topic() != "social-graph"]

    monkeypatch.setattr(rebuild, "scan", without_the_first)
    rebuilt = run(settings)
    assert rebuilt.cut == ["social-graph"]
    assert rebuild_summary(rebuilt).endswith("; the graph is incomplete, earlier events have expired from the log")


def test_the_command_prints_the_result_as_json(settings: Settings) -> None:
    done = foryou("rebuild", "users", "--json", settings=settings)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["oldest_engagement_at"] == OLDEST
    assert "✓ read engagements" in done.stderr.decode()


def test_an_unreachable_server_is_reported_in_one_line(settings: Settings) -> None:
    for away in ({"kafka": "127.0.0.1:1"}, {"redis": "redis://127.0.0.1:1/0"}):
        done = foryou("rebuild", "users", settings=settings.model_copy(update=away))
        assert (done.returncode, done.stdout) == (1, b"")
        assert len(done.stderr.splitlines()) == 1
