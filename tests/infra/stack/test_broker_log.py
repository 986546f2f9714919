from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.stack.broker_log import BrokerLog, Entry, Record, TopicCreated

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


def test_a_damaged_frame_ends_the_log(tmp_path: Path) -> None:
    content = bytearray(written(tmp_path / "log").read_bytes())
    content[-1] ^= 1
    (tmp_path / "log").write_bytes(content)
    assert read(tmp_path / "log") == ENTRIES[:2]
