import gzip
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from feed_worker.documents.feed import Feed
from infra.ops.replay.command import Pace, Replay, ReplayAborted, run
from infra.ops.replay.line_counts import LineCounts
from infra.ops.replay.log_reader import LogError
from infra.ports.clock import DAY_MS
from infra.ports.settings import Settings, load

START_MS = 1_600_000_000_000
QUIET = Console(stderr=True, quiet=True)


def line(**event: object) -> bytes:
    return msgspec.json.encode(event) + b"\n"


def post(post_id: int, at: int, text: str = "hello") -> bytes:
    return line(type="post_created", post_id=post_id, author_id=1_000 + post_id, at=at, text=text)


def favorite(user: int | str, post_id: int, at: int) -> bytes:
    action = {"action": "favorite", "at": at}
    return line(type="engagement", user_id=user, post_id=post_id, author_id=1_000 + post_id, **action)


def write(directory: Path, name: str, *lines: bytes) -> None:
    content = b"".join(lines)
    (directory / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """An old log: the flows accept 8 lines and refuse 5, two of these are broken."""
    viewer = "did:plc:viewer"
    write(
        tmp_path,
        "posts.jsonl.gz",
        *[post(number, START_MS + number * 1_000) for number in range(1, 6)],
        b"{this is not JSON\n",
        line(type="post_created", post_id=7, author_id=0, at=START_MS + 7_000),
    )
    write(
        tmp_path,
        "engagements.jsonl",
        favorite(viewer, 1, START_MS + 10_000),
        b"\n",
        line(type="engagement", user_id=2, post_id=1, author_id=1_001, action="adore", at=START_MS + 11_000),
        favorite(viewer, 2, START_MS + 12_000),
        line(type="engagement", user_id=2),
    )
    write(
        tmp_path,
        "social-graph.jsonl",
        line(type="follow", user_id=2, target_id=1_003, at=START_MS + 9_000),
        line(type="follow", user_id=3, target_id=3, at=START_MS + 9_500),
    )
    return tmp_path


@pytest.mark.embedded
def test_every_line_is_counted_and_an_old_log_is_fresh_on_its_own_clock(log: Path) -> None:
    feeds: list[Feed] = []
    replay = Replay(log, embedded=True, feeds=2)
    counts = run(replay, load(clock="log"), QUIET, lambda feed, took_ms: feeds.append(feed))
    assert counts.read == {"posts": 7, "engagements": 4, "social-graph": 2}
    assert (counts.accepted, counts.dead_lettered, counts.unpublished.total()) == (8, 5, 0)
    assert counts.dead_lettered == counts.dead_letters.total()
    assert counts.broken == 2
    assert counts.newest_at == START_MS + 12_000
    assert counts.active == {b"2": 2, b"did:plc:viewer": 2, b"3": 1}
    assert [feed.user_id for feed in feeds] == ["2", "did:plc:viewer"]
    assert counts.feeds == Counter(feed.status for feed in feeds) == {"ok": 2}
    shown = {feed.user_id: {item.post_id for item in feed.items} for feed in feeds}
    assert "3" in shown["2"]
    assert shown["did:plc:viewer"] == {"3", "4", "5"}


@pytest.mark.embedded
def test_one_post_of_a_later_year_leaves_the_feeds_of_a_log_and_is_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    posts = [post(number, START_MS + number * 1_000) for number in range(1, 31)]
    posts.append(post(99, START_MS + 4 * 365 * DAY_MS))
    write(tmp_path, "posts.jsonl", *posts)
    write(tmp_path, "engagements.jsonl", favorite(5, 1, START_MS + 10_000), favorite(6, 2, START_MS + 40_000))
    feeds: list[Feed] = []
    replay = Replay(tmp_path, embedded=True, feeds=2)
    counts = run(replay, load(clock="log"), Console(stderr=True), lambda feed, took_ms: feeds.append(feed))
    assert (counts.accepted, counts.outliers, counts.newest_at) == (33, 1, START_MS + 40_000)
    assert counts.feeds == {"ok": 2}
    assert all(len(feed.items) >= 20 for feed in feeds)
    assert "posts.jsonl line 31: `at` is 1,460.0 days after the rest of the log" in capsys.readouterr().err


def test_a_strict_replay_stops_at_the_first_unusable_line(log: Path, servers: Settings) -> None:
    with pytest.raises(ReplayAborted, match=r"posts\.jsonl\.gz line 6: not JSON.*; 5 lines were published before it"):
        run(Replay(log, strict=True), servers, QUIET, _ignore)


def test_a_strict_replay_stops_at_an_invalid_event(tmp_path: Path, servers: Settings) -> None:
    write(tmp_path, "posts.jsonl", post(1, START_MS), line(type="post_created", post_id=2, author_id=0, at=START_MS))
    with pytest.raises(ReplayAborted, match=r"posts\.jsonl line 2: .*author_id.*; 1 lines were published before it"):
        run(Replay(tmp_path, strict=True), servers, QUIET, _ignore)


def test_a_directory_without_a_log_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="has no log"):
        run(Replay(tmp_path, embedded=True), load(), QUIET, _ignore)


def test_the_counts_as_json_add_up() -> None:
    counts = LineCounts(delivered=90)
    counts.read.update({"posts": 60, "engagements": 40})
    counts.unpublished["posts: too large"] = 10
    counts.dead_letters["no"] = 15
    document = counts.as_json()
    assert document["read"] == document["accepted"] + document["dead_lettered"] + document["unpublished"]


def test_a_paced_replay_sleeps_until_each_event_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    due = []

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    pace = Pace(100.0, sleep)
    for at in (START_MS, START_MS + 50_000, START_MS + 40_000, START_MS + 100_000):
        pace.wait(at)
        due.append(round(clock[0], 6))
    assert due == [0.0, 0.5, 0.5, 1.0]


@pytest.mark.parametrize("years", [-20, 30])
def test_a_paced_replay_skips_a_jump_of_the_logs_time_and_keeps_its_pace(
    monkeypatch: pytest.MonkeyPatch, years: int
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    pace, odd = Pace(1_000.0, sleep), START_MS + years * 365 * DAY_MS
    for log in ([odd, START_MS, START_MS + 50_000], [START_MS, odd, START_MS + 40_000, START_MS + 90_000]):
        began = clock[0]
        jumps = [pace.wait(at) for at in log]
        assert clock[0] - began == pytest.approx(0.05)
        assert sum(map(bool, jumps)) >= 1
    assert Pace(1_000.0, _never).wait(START_MS) == ""


def test_a_paced_replay_waits_for_a_night(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    pace = Pace(10.0, sleep)
    assert (pace.wait(START_MS), pace.wait(START_MS + DAY_MS // 3)) == ("", "")
    assert clock[0] == pytest.approx(2_880)


def test_an_unpaced_replay_never_sleeps() -> None:
    Pace(None, _never).wait(START_MS + DAY_MS)


def _never(_seconds: float) -> None:
    raise AssertionError("the replay slept")


def _ignore(_feed: Feed, _took_ms: float) -> None:
    raise AssertionError("no feed was requested")
