import json
import sys

import pytest
import redis
from rich.console import Console
from typer.testing import CliRunner

from infra.cli.app import app
from infra.ops import state_user
from infra.ports.clock import HOUR_MS
from infra.ports.errors import StateUnreadable
from infra.ports.settings import Settings, load
from infra.terminal.state import user_view
from tests.infra.cli.foryou import foryou
from thunder_ingest.events import (
    Block,
    Engagement,
    EngagementEvent,
    Follow,
    GraphEvent,
    Impression,
    Mute,
    MuteKeyword,
    Subscribe,
    Unfollow,
)
from thunder_ingest.events.ids import id64
from thunder_ingest.events.redis_keys import user_key
from thunder_ingest.users.entries import updates_of
from thunder_ingest.users.redis_form import UserStates

T0 = 1_700_000_000_000
ANA = "did:plc:ana"


@pytest.fixture
def stored(valkey: redis.Redis, valkey_url: str) -> Settings:
    """Settings of a Redis with a state of did:plc:ana."""
    events: list[EngagementEvent | GraphEvent] = [
        Engagement(user_id=ANA, post_id=10, author_id=7, action="favorite", at=T0),
        Engagement(user_id=ANA, post_id=10, author_id=7, action="dwell_time", dwell_ms=2_500, at=T0 + 1_000),
        Impression(user_id=ANA, post_id="at://seen", author_id=8, at=T0 + HOUR_MS),
        *(Follow(user_id=ANA, target_id=target, at=T0) for target in (5, 6, 7)),
        Unfollow(user_id=ANA, target_id=6, at=T0 + 1),
        Block(user_id=ANA, target_id=20, at=T0),
        Block(user_id=21, target_id=ANA, at=T0),
        Mute(user_id=ANA, target_id=22, at=T0),
        Subscribe(user_id=ANA, target_id=7, at=T0),
        MuteKeyword(user_id=ANA, keyword="[bold]", at=T0),
    ]
    users = UserStates(valkey)
    users.append([update for event in events for update in updates_of(event)], "0-1")
    users.add_served(ANA, [30, 31], T0, "a")
    users.add_served(ANA, [32], T0 + 1, "b")
    return load(redis=valkey_url)


def test_the_document_of_a_user_has_all_parts_of_the_state(stored: Settings) -> None:
    document = state_user.read(stored, ANA, 20)
    assert document is not None
    assert (document.user_id, document.number, document.is_known) == (ANA, str(id64(ANA)), True)
    assert document.edges == {
        "following": ["5", "7"],
        "blocks": ["20"],
        "blocked_by": ["21"],
        "mutes": ["22"],
        "subscriptions": ["7"],
    }
    assert document.keywords == ["[bold]"]
    assert set(document.seen) == {"10", str(id64("at://seen"))}


def test_the_history_is_newest_first_with_action_names(stored: Settings) -> None:
    document = state_user.read(stored, ANA, 20)
    assert document is not None
    seen, liked = document.history
    assert (seen.at, seen.post_id, seen.author_id, seen.actions) == (T0 + HOUR_MS, str(id64("at://seen")), "8", [])
    assert (liked.post_id, liked.actions, liked.dwell_ms) == ("10", ["favorite", "dwell_time"], 2_500)


def test_the_limit_keeps_the_newest_entries_and_the_full_counts(stored: Settings) -> None:
    document = state_user.read(stored, ANA, 1)
    assert document is not None
    assert [each.at for each in document.history] == [T0 + HOUR_MS]
    assert [(each.at, each.post_id) for each in document.served] == [(T0 + 1, "32")]
    assert document.edges["following"] == ["5"]
    counts = document.counts
    assert (counts["history"], counts["served"], counts["following"], counts["seen"]) == (2, 3, 2, 2)


def test_the_view_shows_history_lists_and_markup_literally(stored: Settings) -> None:
    document = state_user.read(stored, ANA, 1)
    assert document is not None
    console = Console(width=160, record=True, file=sys.stderr)
    console.print(user_view(document))
    shown = console.export_text()
    assert "seen, passed over" in shown
    assert "5 … and 1 more" in shown
    assert "[bold]" in shown
    assert "2023-11-14 23:13:20.000Z" in shown


def test_a_user_with_served_posts_only_is_shown_as_unknown(valkey: redis.Redis, valkey_url: str) -> None:
    UserStates(valkey).add_served("9", [1], T0, "a")
    document = state_user.read(load(redis=valkey_url), "9", 20)
    assert document is not None
    assert (document.is_known, document.number, document.counts["served"]) == (False, "9", 1)


def test_an_unknown_user_has_no_document(stored: Settings) -> None:
    assert state_user.read(stored, "unknown", 20) is None


def test_an_unreadable_state_is_reported_with_user_and_reason(stored: Settings, valkey: redis.Redis) -> None:
    valkey.hset(user_key(ANA), "seen", b"\xffnonsense")
    with pytest.raises(StateUnreadable, match=r"user:\{did:plc:ana\} in Redis cannot be read: .*version 255"):
        state_user.read(stored, ANA, 20)


def test_the_command_prints_json_and_fails_for_an_unknown_user_in_one_line(stored: Settings) -> None:
    done = foryou("state", "user", ANA, "--json", "--limit", "2", settings=stored)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["user_id"] == ANA
    done = foryou("state", "user", "42", settings=stored)
    assert (done.returncode, done.stdout) == (1, b"")
    (message,) = done.stderr.decode().splitlines()
    assert message.startswith("foryou: no state of user 42: ")


def test_an_unreachable_redis_is_reported_in_one_line(stored: Settings) -> None:
    done = foryou("state", "user", "42", FORYOU_REDIS="redis://127.0.0.1:1/0")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["user", "post"])
@pytest.mark.parametrize("published", ["", "0", "a b", "{x}", "x" * 300, str(2**63)])
def test_a_text_that_cannot_be_an_id_is_refused(command: str, published: str) -> None:
    done = CliRunner().invoke(app, ["state", command, published])
    assert done.exit_code == 2
    assert "is not an id" in done.output
