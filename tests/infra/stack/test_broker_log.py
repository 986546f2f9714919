from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.stack.broker_log import BrokerLog, Entry, LogDamaged, Record, TopicCreated

ENTRIES: list[list[Entry]] = [
    [TopicCreated("posts", 2, {"retention.ms": "1"})],
    [Record("posts", 1, 0, 5, b"k", b"v", [("h", b"x"), ("h", None)]), Record("posts", 0, 0, 0, None, None)],
    [TopicCreated("more", 1, {})],
]


def written(path: Path) -> Path:
    with BrokerLog(path) as log:
        assert list(log.read()) == []
        for entries in ENTRIES:
            log.append(entries)
    return path


def read(path: Path) -> list[list[Entry]]:
    with BrokerLog(path) as log:
        return list(log.read())


def test_a_log_returns_what_was_appended_and_continues_behind_it(tmp_path: Path) -> None:
    with BrokerLog(written(tmp_path / "log")) as log:
        assert list(log.read()) == ENTRIES
        log.append(ENTRIES[1])
    assert read(tmp_path / "log") == [*ENTRIES, ENTRIES[1]]


@given(cut=st.integers(1, 40))
def test_a_frame_that_is_cut_short_ends_the_log_and_the_next_one_replaces_it(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = written(tmp_path_factory.mktemp("cut") / "log")
    size_bytes = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size_bytes - cut)
    with BrokerLog(path) as log:
        kept = list(log.read())
        assert kept == ENTRIES[: len(kept)]
        assert len(kept) < len(ENTRIES)
        log.append(ENTRIES[1])
    assert read(path) == [*kept, ENTRIES[1]]


def test_a_damaged_last_frame_ends_the_log(tmp_path: Path) -> None:
    content = bytearray(written(tmp_path / "log").read_bytes())
    content[-1] ^= 1
    (tmp_path / "log").write_bytes(content)
    assert read(tmp_path / "log") == ENTRIES[:2]


@given(position=st.integers(0, 60), bit=st.integers(0, 7))
def test_a_damaged_frame_before_whole_ones_is_an_error_and_the_file_is_kept(
    position: int, bit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = written(tmp_path_factory.mktemp("damaged") / "log")
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(LogDamaged, match=r"log is damaged at offset \d+: restore .* --data.*--fresh"):
        read(path)
    assert path.read_bytes() == content


def test_a_torn_last_frame_of_a_log_that_was_closed_properly_is_an_error(tmp_path: Path) -> None:
    content = written(tmp_path / "log").read_bytes()[:-1]
    (tmp_path / "log").write_bytes(content)
    with BrokerLog(tmp_path / "log") as log, pytest.raises(LogDamaged):
        list(log.read(is_whole=True))
    assert (tmp_path / "log").read_bytes() == content
