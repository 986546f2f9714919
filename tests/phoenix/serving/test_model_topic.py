"""The topic `models`: announce, read, watch; and the command `foryou models`."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.ports.kafka_admin import create_topics
from infra.ports.settings import Settings, load
from infra.stack.embedded import EmbeddedKafka
from phoenix.serving.model_topic import NAME, ModelWatcher, announce, read_model_records, wait_for_model_records
from phoenix.training.checkpoints import phoenix_of
from tests.infra.cli.foryou import foryou, write_to
from tests.infra.waiting import eventually
from tests.phoenix.saved import saved
from thunder_ingest.events import ModelPointer, pack

pytestmark = pytest.mark.embedded


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    with EmbeddedKafka(tmp_path / "kafka") as kafka:
        settings = load(kafka=kafka.address, partitions=2)
        create_topics(settings)
        yield settings


def write(settings: Settings, version: str, at: int, partition: int = 0, name: str = NAME) -> ModelPointer:
    pointer = ModelPointer(name=name, version=version, location=f"/{version}", at=at)
    write_to(settings, "models", partition, name.encode(), pack(pointer))
    return pointer


def seen(watch: ModelWatcher, version: str) -> list[ModelPointer | None]:
    """The announced models, poll by poll, until the version is announced."""
    found: list[ModelPointer | None] = []

    def is_current() -> bool:
        found.append(watch.poll(0.05))
        return found[-1] is not None and found[-1].version == version

    eventually(is_current)
    return found


def test_the_last_announcement_is_current_even_if_clocks_go_back(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_model_records(settings) == []
    first = announce(settings, "m-1", "/a")
    monkeypatch.setattr("phoenix.serving.model_topic.now_ms", lambda: 5)
    second = announce(settings, "m-2", "/b")
    assert second.at == first.at + 1
    assert read_model_records(settings) == wait_for_model_records(settings, threading.Event()) == [second, first]


def test_the_newest_by_its_own_time_is_current_wherever_it_stands(settings: Settings) -> None:
    older, newest, tied = write(settings, "m-1", 5), write(settings, "m-3", 7), write(settings, "m-2", 7, partition=1)
    late = write(settings, "m-4", 6)
    write(settings, "m-9", 9, name="another")
    assert read_model_records(settings) == [newest, tied, late, older]
    watch = ModelWatcher(settings, None, threading.Event())
    assert seen(watch, "m-3")[-1] == newest
    following = announce(settings, "m-5", "/e")
    assert seen(watch, "m-5")[-1] == following
    watch.close()


def test_a_watcher_never_returns_to_an_earlier_model(settings: Settings) -> None:
    write(settings, "m-1", 5)
    known = ModelPointer(name=NAME, version="m-2", location="/b", at=6)
    watch = ModelWatcher(settings, known, threading.Event())
    newest = write(settings, "m-3", 7, partition=1)
    assert all(pointer in (known, newest) for pointer in seen(watch, "m-3"))
    watch.close()


def test_a_malformed_record_announces_no_model_and_is_logged(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    readable = write(settings, "m-1", 5)
    write_to(settings, "models", 0, NAME.encode(), b"\xc1")
    write_to(settings, "models", 1, NAME.encode(), None)
    assert read_model_records(settings) == [readable]
    assert "models[0] at offset 1 cannot be read and is ignored" in caplog.text


def test_a_checkpoint_is_announced_and_shown(settings: Settings, tmp_path: Path) -> None:
    path = saved(tmp_path / "run")
    version = phoenix_of(path).version
    used = foryou("models", "use", str(tmp_path / "run"), "--json", settings=settings)
    assert used.returncode == 0, used.stderr
    document = json.loads(used.stdout)
    assert document == {"source": "announced", "version": version, "location": str(path), "at": document["at"]}
    assert json.loads(foryou("models", "--json", settings=settings).stdout) == document
    table = foryou("models", settings=settings).stdout.decode()
    assert version in table
    assert str(path) in table


def test_a_checkpoint_that_cannot_be_served_is_refused_and_not_announced(settings: Settings, tmp_path: Path) -> None:
    path = saved(tmp_path)
    (path / "card.json").write_text("{}")
    for directory, reason in ((path, "is of format None"), (tmp_path / "nowhere", "nowhere contains no checkpoint")):
        refused = foryou("models", "use", str(directory), settings=settings)
        assert refused.returncode == 2
        (line,) = refused.stderr.decode().splitlines()
        assert reason in line
    assert read_model_records(settings) == []


@pytest.mark.parametrize(
    ("checkpoint", "location"), [("", "seeded: nano, seed 20260721"), ("/models/run", "/models/run")]
)
def test_where_nothing_is_announced_the_settings_decide(settings: Settings, checkpoint: str, location: str) -> None:
    shown = foryou("models", "--json", settings=settings.model_copy(update={"checkpoint": checkpoint}))
    assert json.loads(shown.stdout) == {"source": "settings", "version": None, "location": location, "at": None}
    assert (
        location.split(",")[0]
        in foryou("models", settings=settings.model_copy(update={"checkpoint": checkpoint})).stdout.decode()
    )
