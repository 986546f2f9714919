import json
import sys

import pytest
import redis
from confluent_kafka import Message
from rich.console import Console

from infra.ops import republish
from infra.ops.dead_letter_query import LetterFilter, identity
from infra.ops.message_fix import Fix
from infra.ops.republish import LEDGER, RepublishPlan, RepublishResult
from infra.ports.clock import now_ms
from infra.ports.settings import Settings
from infra.ports.topic_reader import scan
from tests.infra.cli.foryou import foryou, letters, unique
from thunder_ingest.events import DeadLetter

pytestmark = pytest.mark.embedded

NOW = now_ms()


def letter(reason: str, offset: int, value: bytes | None, topic: str = "posts", key: bytes | None = b"7") -> DeadLetter:
    return DeadLetter(topic=topic, partition=0, offset=offset, at=NOW, reason=reason, key=key, value=value)


def run(
    settings: Settings,
    reason: str,
    *changes: str,
    limit: int | None = None,
    again: bool = False,
    answer: bool = True,
    asked: list[RepublishPlan] | None = None,
) -> RepublishResult | None:
    def confirm(plan: RepublishPlan) -> bool:
        if asked is not None:
            asked.append(plan)
        return answer

    err = Console(file=sys.stderr)
    fix = Fix.parse(changes)
    return republish.run(
        settings, LetterFilter(reason=reason), limit=limit, fix=fix, again=again, confirm=confirm, err=err
    )


def published(settings: Settings, topic: str, mark: str) -> list[Message]:
    found = scan(settings, [topic], lambda _done, _total: None)
    return [each for messages in found for each in messages if mark.encode() in (each.value() or b"")]


def post(mark: str, **fields: object) -> bytes:
    return json.dumps({"type": "post_created", "post_id": mark, "author_id": 7, "at": NOW, **fields}).encode()


def test_raw_bytes_return_to_their_topic_under_their_key(servers: Settings) -> None:
    mark = unique("raw")
    letters(
        servers,
        letter(mark, 1, f"nonsense {mark}".encode() + b"\xff", key=b"\x00\x01"),
        letter(mark, 2, f"graph {mark}".encode(), topic="social-graph", key=None),
    )
    answer = run(servers, mark)
    assert answer is not None
    assert (answer.selected, answer.delivered, answer.is_whole) == (2, 2, True)
    (message,) = published(servers, "posts", mark)
    assert (message.key(), message.value()) == (b"\x00\x01", f"nonsense {mark}".encode() + b"\xff")
    (message,) = published(servers, "social-graph", mark)
    assert message.key() is None


def test_a_fixed_message_is_published_and_an_unusable_one_is_listed(servers: Settings) -> None:
    mark = unique("repaired")
    letters(servers, letter(mark, 1, post(mark, kind="story")), letter(mark, 2, f"nonsense {mark}".encode()))
    answer = run(servers, mark, 'kind="original"')
    assert answer is not None
    assert (answer.selected, answer.delivered, answer.is_whole) == (2, 1, False)
    (unusable,) = answer.unusable
    assert (unusable.topic, unusable.offset) == ("posts", 2)
    assert unusable.reason.startswith("cannot set a field")
    (message,) = published(servers, "posts", mark)
    assert json.loads(message.value() or b"")["kind"] == "original"


def test_nothing_is_published_without_confirmation(servers: Settings) -> None:
    mark, asked = unique("no"), list[RepublishPlan]()
    letters(servers, letter(mark, 1, mark.encode()))
    assert run(servers, mark, answer=False, asked=asked) is None
    assert [each.count for each in asked[0].reasons] == [1]
    assert published(servers, "posts", mark) == []


def test_messages_delivered_before_are_left_out_unless_again_is_given(servers: Settings) -> None:
    mark, asked = unique("again"), list[RepublishPlan]()
    letters(servers, letter(mark, 1, mark.encode()))
    run(servers, mark)
    letters(servers, letter(mark, 1, mark.encode()), letter(mark, 2, mark.encode()))
    answer = run(servers, mark)
    assert answer is not None
    assert (answer.selected, answer.delivered_before, answer.delivered) == (1, 1, 1)
    answer = run(servers, mark, asked=asked)
    assert answer == RepublishResult(selected=0, delivered_before=2)
    assert asked == []
    answer = run(servers, mark, again=True)
    assert answer is not None
    assert (answer.selected, answer.delivered) == (2, 2)
    assert len(published(servers, "posts", mark)) == 4


def test_an_unusable_message_is_not_stored_as_delivered(servers: Settings) -> None:
    mark = unique("later")
    letters(servers, letter(mark, 1, post(mark, kind="story")))
    run(servers, mark, "photos=1")
    answer = run(servers, mark, 'kind="original"')
    assert answer is not None
    assert (answer.delivered_before, answer.delivered) == (0, 1)


def test_a_limit_selects_the_newest_messages(servers: Settings) -> None:
    mark = unique("limit")
    old = letter(mark, 1, f"old {mark}".encode())
    old.at -= 1
    letters(servers, letter(mark, 2, f"new {mark}".encode()), old)
    answer = run(servers, mark, limit=1)
    assert answer is not None
    assert (answer.selected, answer.delivered) == (1, 1)
    assert [each.value() for each in published(servers, "posts", mark)] == [f"new {mark}".encode()]


def test_more_messages_than_a_chunk_are_all_delivered_and_stored(
    servers: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(republish, "CHUNK", 10)
    mark = unique("many")
    letters(servers, *(letter(mark, n, f"{n} {mark}".encode()) for n in range(95)))
    with redis.Redis.from_url(servers.redis) as client:
        before = client.zcard(LEDGER)
        answer = run(servers, mark)
        assert client.zcard(LEDGER) == before + 95
    assert answer is not None
    assert (answer.selected, answer.delivered) == (95, 95)
    assert len({each.value() for each in published(servers, "posts", mark)}) == 95


def test_a_message_that_kafka_refuses_is_counted(servers: Settings) -> None:
    mark = unique("large")
    found = [letter(mark, 1, b"x" * 4_100_000), letter(mark, 2, mark.encode())]
    plan = RepublishPlan(marks={identity(each) for each in found})
    with redis.Redis.from_url(servers.redis) as client:
        answer = republish._publish(servers, plan, found, Fix(), republish.Ledger(servers, client))
    assert (answer.selected, answer.delivered, sum(answer.unpublished.values())) == (2, 1, 1)
    assert not answer.is_whole


def test_a_letter_that_expires_during_the_run_is_counted(servers: Settings) -> None:
    mark = unique("gone")
    plan = RepublishPlan(marks={identity(letter(mark, 1, mark.encode()))})
    with redis.Redis.from_url(servers.redis) as client:
        answer = republish._publish(servers, plan, [], Fix(), republish.Ledger(servers, client))
    assert (answer.selected, answer.delivered, answer.gone, answer.is_whole) == (1, 0, 1, False)


def test_the_command_counts_every_message(servers: Settings) -> None:
    mark = unique("command")
    letters(servers, letter(mark, 1, post(mark, kind="story")), letter(mark, 2, mark.encode()))
    done = foryou("dead-letters", "--republish", "--reason", mark, settings=servers)
    assert done.returncode == 2
    arguments = ("--republish", "--yes", "--reason", mark, "--set", 'kind="original"')
    done = foryou("dead-letters", *arguments, "--json", settings=servers)
    assert done.returncode == 1, done.stderr
    account = json.loads(done.stdout)
    assert (account["selected"], account["delivered"], len(account["unusable"]), account["gone"]) == (2, 1, 1, 0)
    done = foryou("dead-letters", "--republish", "--yes", "--reason", mark, settings=servers)
    assert done.returncode == 0, done.stderr
    assert "left out, delivered before" in done.stdout.decode()


def test_without_redis_nothing_is_published(servers: Settings) -> None:
    mark = unique("away")
    letters(servers, letter(mark, 1, mark.encode()))
    settings = servers.model_copy(update={"redis": "redis://127.0.0.1:1/0"})
    done = foryou("dead-letters", "--republish", "--yes", "--reason", mark, settings=settings)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert published(servers, "posts", mark) == []
