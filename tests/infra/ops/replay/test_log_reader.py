"""The reader of log directories: what it finds, the order it gives, and what bad lines become."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.ops.replay import log_reader as replay_log
from infra.ops.replay.log_reader import LogError, LogReader
from infra.ports.clock import DAY_MS

T0 = 1_600_000_000_000
PACK: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


def write(directory: Path, topic: str, rows: list[Any], form: str = "") -> Path:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path = directory / f"{topic}.jsonl{form}"
    path.write_bytes(PACK[form](b"".join(line + b"\n" for line in lines)))
    return path


def post(at: int, author: int | str = 7) -> dict[str, Any]:
    return {"type": "post_created", "post_id": at, "author_id": author, "at": T0 + at, "text": "hello"}


def impression(at: int, user: int | str = 1) -> dict[str, Any]:
    return {"type": "impression", "user_id": user, "post_id": 3, "author_id": 7, "at": T0 + at}


def follow(at: int, user: int | str = 1) -> dict[str, Any]:
    return {"type": "follow", "user_id": user, "target_id": 7, "at": T0 + at}


def order(directory: Path) -> list[tuple[str, int | None]]:
    """The topic of each line, and its time after T0."""
    return [(line.topic, None if line.at is None else line.at - T0) for line in LogReader(directory).lines()]


# --- what is found ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", list(PACK))
def test_a_file_is_read_in_each_of_its_forms(tmp_path: Path, form: str) -> None:
    path = write(tmp_path, "posts", [post(10), post(20)], form)
    lines = list(LogReader(tmp_path).lines())
    assert [(line.at, line.number, line.file) for line in lines] == [
        (T0 + 10, 1, path.name),
        (T0 + 20, 2, path.name),
    ]
    assert json.loads(lines[0].raw) == post(10)


def test_a_log_needs_only_one_of_the_three_files(tmp_path: Path) -> None:
    write(tmp_path, "social-graph", [follow(5)])
    assert order(tmp_path) == [("social-graph", 5)]


def test_an_empty_file_is_an_empty_log(tmp_path: Path) -> None:
    write(tmp_path, "posts", [])
    assert order(tmp_path) == []


def test_a_last_line_without_its_line_end_is_read(tmp_path: Path) -> None:
    (tmp_path / "posts.jsonl").write_bytes(json.dumps(post(10)).encode())
    assert order(tmp_path) == [("posts", 10)]


def test_a_missing_directory_is_reported(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"^.*nowhere is not a directory; give a directory with posts\.jsonl, .*$"):
        LogReader(tmp_path / "nowhere")


def test_a_directory_without_a_log_is_reported(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(LogError, match=r"has no log; .*posts\.jsonl, engagements\.jsonl, social-graph\.jsonl"):
        LogReader(tmp_path)


def test_a_file_in_two_forms_is_refused_and_both_are_named(tmp_path: Path) -> None:
    write(tmp_path, "posts", [post(1)])
    write(tmp_path, "posts", [post(1)], ".gz")
    with pytest.raises(LogError, match=r"posts\.jsonl and posts\.jsonl\.gz"):
        LogReader(tmp_path)


# --- order -----------------------------------------------------------------------------------------------------------


def test_files_are_merged_in_event_time_order_and_ties_go_by_topic(tmp_path: Path) -> None:
    write(tmp_path, "social-graph", [follow(10), follow(30)])
    write(tmp_path, "engagements", [impression(10), impression(20), impression(30)])
    write(tmp_path, "posts", [post(10), post(30)])
    topics = ["posts", "engagements", "social-graph"]
    tied_at_10, at_20, tied_at_30 = order(tmp_path)[:3], order(tmp_path)[3], order(tmp_path)[4:]
    assert tied_at_10 == [(topic, 10) for topic in topics]
    assert at_20 == ("engagements", 20)
    assert tied_at_30 == [(topic, 30) for topic in topics]


def test_a_late_line_sorts_with_the_newest_line_before_it(tmp_path: Path) -> None:
    write(tmp_path, "posts", [post(10), post(2), post(40)])
    write(tmp_path, "engagements", [impression(5), impression(11)])
    assert [at for _, at in order(tmp_path)] == [5, 10, 2, 11, 40]


@pytest.mark.parametrize("ahead", [1, 3])
def test_lines_of_another_year_carry_no_other_lines_along(tmp_path: Path, ahead: int) -> None:
    later = 4 * 365 * DAY_MS
    write(tmp_path, "posts", [post(10), *(post(later + n) for n in range(ahead)), *map(post, range(20, 30))])
    write(tmp_path, "engagements", [impression(15), impression(-later), impression(25), impression(40)])
    engagements = [at for topic, at in order(tmp_path) if topic == "engagements"]
    assert engagements == [15, -later, 25, 40]
    usual = [at for _, at in order(tmp_path) if at is not None and 0 < at < later]
    assert usual == [10, 15, 20, 21, 22, 23, 24, 25, 25, 26, 27, 28, 29, 40]


def slow_merge(logs: dict[str, list[int]]) -> list[tuple[str, int]]:
    """Always the line with the earliest head; a late line counts as being as new as what is before it."""
    keyed = []
    for rank, topic in enumerate(replay_log.LOG_TOPICS):
        newest = 0
        for number, at in enumerate(logs.get(topic, [])):
            newest = max(newest, at)
            keyed.append((newest, rank, number, (topic, at)))
    return [entry[-1] for entry in sorted(keyed)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    logs=st.dictionaries(
        st.sampled_from(replay_log.LOG_TOPICS), st.lists(st.integers(1, 30), max_size=30), min_size=1, max_size=3
    ),
    chunk=st.integers(20, 400),
    form=st.sampled_from(list(PACK)),
)
def test_a_merge_in_blocks_equals_a_merge_line_by_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logs: dict[str, list[int]], chunk: int, form: str
) -> None:
    monkeypatch.setattr(replay_log, "_CHUNK_BYTES", chunk)
    monkeypatch.setattr(replay_log, "_ZSTD_CHUNK_BYTES", chunk // 10)
    event = {"posts": post, "engagements": impression, "social-graph": follow}
    for path in tmp_path.iterdir():
        path.unlink()
    for topic, times in logs.items():
        write(tmp_path, topic, [event[topic](at) for at in times], form)
    assert order(tmp_path) == slow_merge(logs)


def test_a_log_can_be_read_again(tmp_path: Path) -> None:
    write(tmp_path, "posts", [post(10), post(20)])
    reader = LogReader(tmp_path)
    assert list(reader.lines()) == list(reader.lines())


# --- keys ------------------------------------------------------------------------------------------------------------


def test_a_post_has_its_author_as_key_and_another_event_its_user(tmp_path: Path) -> None:
    write(tmp_path, "posts", [post(1, author=7)])
    write(tmp_path, "engagements", [impression(2, user=8)])
    write(tmp_path, "social-graph", [follow(3, user=9)])
    assert [line.key for line in LogReader(tmp_path).lines()] == [b"7", b"8", b"9"]


@pytest.mark.parametrize(
    ("user", "key"), [(42, b"42"), ("42", b"42"), ("0042", b"0042"), ("did:plc:aé", "did:plc:aé".encode())]
)
def test_a_key_is_the_published_form_of_the_id(tmp_path: Path, user: int | str, key: bytes) -> None:
    write(tmp_path, "engagements", [impression(1, user)])
    assert [line.key for line in LogReader(tmp_path).lines()] == [key]


@pytest.mark.parametrize(
    "raw",
    [
        b'{"at":1600000000009}',
        b'{"at":1600000000009,"user_id":null}',
        b'{"at":1600000000009,"user_id":[1]}',
        b'{"at":1600000000009,"user_id":1.5}',
        b'{"at":1600000000009,"user_id":"' + b"9" * 5000 + b'"}',
        b'{"at":1600000000009,"user_id":' + b"9" * 5000 + b"}",
    ],
    ids=["absent", "null", "list", "float", "endless digits", "endless integer"],
)
def test_a_line_without_a_usable_id_keeps_its_place_and_has_no_key(tmp_path: Path, raw: bytes) -> None:
    write(tmp_path, "engagements", [impression(5), raw, impression(12)])
    line = list(LogReader(tmp_path).lines())[1]
    assert (line.at, line.key, line.problem, line.raw) == (T0 + 9, None, None, raw)


# --- broken lines ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b'{"at":1600000000001', "not JSON"),
        (b"hello", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"at":1600000000001}{"at":1600000000002}', "not JSON"),
        (b'{"x":' + b"[" * 100_000, "not JSON"),
        (b"[1]", "Expected `object`"),
        (b'{"user_id":1}', "missing required field `at`"),
        (b'{"at":null}', "got `null`"),
        (b'{"at":"1650000000000"}', "got `str`"),
        (b'{"at":1600000000}', "seconds, most likely"),
        (b'{"at":0}', ">= 1000000000000"),
        (b'{"at":999999999999999999}', "<= 253402300799999"),
    ],
)
def test_a_broken_line_has_a_reason_and_keeps_its_bytes(tmp_path: Path, raw: bytes, reason: str) -> None:
    write(tmp_path, "engagements", [raw])
    (line,) = LogReader(tmp_path).lines()
    assert line.problem is not None
    assert reason in line.problem
    assert (line.raw, line.number, line.at, line.key) == (raw, 1, None, None)


def test_a_broken_line_comes_directly_after_the_line_before_it(tmp_path: Path) -> None:
    write(tmp_path, "posts", [b"broken", post(10), b"broken", b"broken", post(30)])
    write(tmp_path, "engagements", [impression(5), impression(10), impression(20)])
    engagements = "engagements"
    assert order(tmp_path) == [
        ("posts", None),
        (engagements, 5),
        ("posts", 10),
        ("posts", None),
        ("posts", None),
        (engagements, 10),
        (engagements, 20),
        ("posts", 30),
    ]


def test_blank_lines_are_skipped_and_counted_in_line_numbers(tmp_path: Path) -> None:
    write(tmp_path, "posts", [b"", post(10), b"  \r", b"broken"])
    assert [line.number for line in LogReader(tmp_path).lines()] == [2, 4]


def test_windows_line_ends_are_read(tmp_path: Path) -> None:
    write(tmp_path, "posts", [json.dumps(post(10)).encode() + b"\r"])
    assert order(tmp_path) == [("posts", 10)]


# --- damaged files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [".gz", ".zst"])
def test_a_truncated_file_is_reported_with_its_name(tmp_path: Path, form: str) -> None:
    path = write(tmp_path, "posts", [post(at) for at in range(1, 500)], form)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(LogError, match=rf"posts\.jsonl\{form} cannot be read after line \d+: "):
        list(LogReader(tmp_path).lines())


@pytest.mark.parametrize("form", [".gz", ".zst"])
def test_a_file_in_another_form_than_its_suffix_is_reported_with_its_name(tmp_path: Path, form: str) -> None:
    (tmp_path / f"posts.jsonl{form}").write_bytes(b'{"at":1}\n')
    with pytest.raises(LogError, match=rf"posts\.jsonl\{form} cannot be read after line 0: "):
        list(LogReader(tmp_path).lines())


@pytest.mark.parametrize("form", [".gz", ".zst"])
def test_a_file_of_several_compressed_parts_is_read_to_its_end(tmp_path: Path, form: str) -> None:
    parts = [PACK[form](json.dumps(post(at)).encode() + b"\n") for at in (10, 20, 30)]
    (tmp_path / f"posts.jsonl{form}").write_bytes(b"".join(parts))
    assert [at for _, at in order(tmp_path)] == [10, 20, 30]


def test_a_line_without_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_log, "_CHUNK_BYTES", 100)
    monkeypatch.setattr(replay_log, "MAX_LINE_BYTES", 1000)
    write(tmp_path, "posts", [post(1), b"x" * 5000])
    with pytest.raises(LogError, match="line 2 has more than"):
        list(LogReader(tmp_path).lines())


# --- progress --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", list(PACK))
def test_progress_ends_at_the_size_of_the_files(tmp_path: Path, form: str) -> None:
    write(tmp_path, "posts", [post(at) for at in range(1, 100)], form)
    write(tmp_path, "engagements", [impression(at) for at in range(1, 100)], form)
    reader = LogReader(tmp_path)
    seen = [reader.bytes_read]
    seen += [reader.bytes_read for _ in reader.lines()]
    assert seen == sorted(seen)
    assert (seen[0], reader.bytes_read) == (0, reader.total_bytes)
