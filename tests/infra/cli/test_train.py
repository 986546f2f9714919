"""`foryou train` as a process: a killed run continues to the same bits."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import typer
from rich.console import Console

from infra.cli.learning_options import labelled_since, read_log, time_ms
from infra.cli.train import NotBetter, train
from infra.ops import model_command
from infra.ops.model_command import CurrentModel
from infra.ports.clock import HOUR_MS
from infra.ports.kafka_admin import create_topics
from infra.ports.producer import Record
from infra.ports.settings import Settings, load
from infra.stack.embedded import EmbeddedKafka
from infra.terminal.progress import ProgressReport
from phoenix import training
from phoenix.data.impressions import Log
from phoenix.models.configs import CONFIGS, NANO
from phoenix.serving.model_topic import read_model_records
from phoenix.training import Fitted
from phoenix.training.checkpoints import phoenix_of
from phoenix.training.run_lock import DirectoryInUse, locked
from tests.infra.cli.foryou import write
from thunder_ingest.events import ACTIONS, Engagement, Impression, PostCreated, encode

T0 = time_ms("2026-01-01")
SIZES: dict[str, Any] = {"dim": 16, "layers": 1, "head_dim": 4, "history": 8, "table_dim": 4, "embed_dim": 8}
ROWS: dict[str, Any] = {"user_rows": 50, "post_rows": 90, "author_rows": 90, "token_rows": 90}
TINY = replace(NANO, name="tiny", **SIZES, **ROWS)
EPOCHS, EPOCHS_OF_PART = 5, 7
"""105 steps on the whole log and on a part of it: the number of steps is a constant of the compiled program."""
PROGRAM = f"""
from dataclasses import replace
from infra.cli.__main__ import main
from phoenix.models import configs

configs.CONFIGS["tiny"] = replace(configs.NANO, name="tiny", **{SIZES | ROWS})
main()
"""


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("log")
    rng = np.random.default_rng(1)
    posts = [
        PostCreated(post_id=post, author_id=post, at=T0 - HOUR_MS, text=f"word{post % 7}") for post in range(1, 60)
    ]
    shown: list[Any] = []
    for hour in range(200):
        ids: dict[str, Any] = {"user_id": int(rng.integers(1, 9)), "post_id": (post := int(rng.integers(1, 60)))}
        shown.append(Impression(**ids, author_id=post, at=T0 + hour * HOUR_MS))
        if rng.random() < 0.4:
            shown.append(Engagement(**ids, author_id=post, at=T0 + hour * HOUR_MS + 9, action="click"))
    (directory / "posts.jsonl").write_bytes(b"\n".join(map(encode, posts)))
    (directory / "engagements.jsonl").write_bytes(b"\n".join([*map(encode, shown), b"nonsense", b'{"at":1}']))
    return directory


@pytest.fixture
def begun(log: Path, tmp_path: Path) -> Path:
    """The same log without clicks before the fifth day."""
    events = [json.loads(line) for line in (log / "engagements.jsonl").read_bytes().splitlines()[:-2]]
    kept = [event for event in events if event["type"] == "impression" or event["at"] >= T0 + 96 * HOUR_MS]
    (tmp_path / "engagements.jsonl").write_text("\n".join(map(json.dumps, kept)))
    (tmp_path / "posts.jsonl").write_bytes((log / "posts.jsonl").read_bytes())
    return tmp_path


def command(log: Path, out: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-c", PROGRAM, "train", "--model", "tiny", "--log", str(log), "--out", str(out)),
        *("--since", "2026-01-01", "--until", str(T0 + 190 * HOUR_MS), "--labelled-since", "click=2026-01-02"),
        *("--epochs", str(EPOCHS), "--batch", "8", "--checkpoint-every", "3", "--held-out", "0"),
        *more,
    ]


def trained(log: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(log, out, *more), capture_output=True, text=True, check=False)


def last_card(out: Path) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((max(out.glob("step-*")) / "card.json").read_text())
    return card


@pytest.fixture(scope="module")
def whole(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    done = trained(log, out)
    assert done.returncode == 0, done.stderr
    assert "2 messages are invalid" in done.stderr
    return out


def test_a_card_has_the_span_and_the_size_of_the_training_data(whole: Path) -> None:
    card = last_card(whole)
    assert card["step"] == card["steps"] > 6
    assert (card["data"]["since_ms"], card["data"]["until_ms"]) == (T0, T0 + 190 * HOUR_MS)
    assert card["data"]["labelled_since"] == {"click": T0 + 24 * HOUR_MS}
    assert card["data"]["examples"] == 190
    assert card["figures"]["loss_ranking"] > 0
    assert len(card["commit"]) in (7, 40)
    assert len(list(whole.glob("step-*"))) == 2


def test_recording_times_are_derived_from_the_log_and_earlier_impressions_are_examples(
    begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CONFIGS, "tiny", TINY)
    given: dict[str, Any] = {"since": T0 + 100 * HOUR_MS, "until": T0 + 190 * HOUR_MS, "model": "tiny", "batch": 8}
    train(**given, epochs=EPOCHS_OF_PART, out=tmp_path / "out", log=begun, held_out=0)
    messages = " ".join(capsys.readouterr().err.split())
    assert re.search(r"recorded from 2026-01-05T\d\d:00:00\+00:00 on: click \(--labelled-since", messages)
    data = last_card(tmp_path / "out")["data"]
    assert T0 + 96 * HOUR_MS <= data["labelled_since"]["click"] < T0 + 120 * HOUR_MS
    assert (data["since_ms"], data["examples"], data["earlier"]) == (T0 + 100 * HOUR_MS, 190, True)


def test_with_no_earlier_earlier_impressions_are_history_only_and_a_file_may_configure_all(
    log: Path, tmp_path: Path
) -> None:
    lines = (f"{name} = {value}" for name, value in (SIZES | ROWS).items())
    (tmp_path / "own.toml").write_text("\n".join(["[training]", "batch = 8", "rate = 0.004", "[model]", *lines]))
    given: dict[str, Any] = {"since": T0 + 100 * HOUR_MS, "until": T0 + 190 * HOUR_MS, "config": tmp_path / "own.toml"}
    train(**given, out=tmp_path / "out", log=log, labelled=["*=0"], earlier=False, seed=4, held_out=0)
    card = last_card(tmp_path / "out")
    assert card["data"]["examples"] == 90
    assert [card["training"][name] for name in ("batch", "rate", "seed")] == [8, 0.004, 4]
    assert phoenix_of(tmp_path / "out").config == replace(TINY, name="own")  # sizes without a name of their own


def test_a_killed_run_continues_to_the_same_bits(log: Path, whole: Path, tmp_path: Path) -> None:
    run = subprocess.Popen(command(log, tmp_path), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("step-*")) and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    run.send_signal(signal.SIGKILL)
    run.wait()
    done = trained(log, tmp_path)
    assert done.returncode == 0, done.stderr
    assert last_card(tmp_path)["digest"] == last_card(whole)["digest"]


def test_a_finished_run_stays_unchanged(log: Path, whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.glob("step-*/**/*")}
    assert trained(log, whole).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in whole.glob("step-*/**/*")} == before


@pytest.mark.embedded
def test_announce_announces_the_last_checkpoint(
    log: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddedKafka(tmp_path) as kafka:
        settings = load(kafka=kafka.address, partitions=1)
        create_topics(settings)
        monkeypatch.setenv("FORYOU_KAFKA", kafka.address)
        done = trained(log, whole, "--announce", "--force")
        assert done.returncode == 0, done.stderr
        (pointer,) = read_model_records(settings)
    assert pointer.location == str(max(whole.glob("step-*")).resolve())
    assert (Path(pointer.location) / "announced").exists()  # a later training keeps it
    assert pointer.version.startswith(f"tiny-step{last_card(whole)['step']}-")
    assert f"{pointer.version} is announced" in done.stderr


def test_an_unreachable_kafka_is_reported_before_training(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORYOU_KAFKA", "127.0.0.1:1")
    done = trained(log, tmp_path / "out", "--announce")
    assert done.returncode == 1
    assert "no Kafka broker answers at 127.0.0.1:1" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_another_run_in_the_same_directory_is_refused(log: Path, whole: Path) -> None:
    done = trained(log, whole, "--seed", "1")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("is of another run: training.seed is 0, not 1")


def test_a_second_run_in_one_directory_is_refused_with_the_process_id_of_the_first(
    log: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CONFIGS, "tiny", TINY)
    given = span_of_all() | {"model": "tiny", "log": log, "out": whole}
    with locked(whole), pytest.raises(DirectoryInUse, match=f"process id {os.getpid()}"):
        train(**given)


def span_of_all() -> dict[str, Any]:
    return {"since": T0, "until": T0 + 190 * HOUR_MS}


WORSE = {"held_out_log_loss": 0.5, "held_out_auc": 0.6} | {
    "untrained_held_out_log_loss": 0.4,
    "untrained_held_out_auc": 0.5,
}


@pytest.mark.parametrize(
    ("figures", "force", "reason"),
    [
        (WORSE | {"held_out_log_loss": 0.3}, False, None),
        (WORSE, True, None),
        (WORSE, False, r"not better than untrained ones: held out log loss 0.5 \(untrained 0.4\), held out auc 0.6 .*"),
        ({}, False, "too few actions are held out .*"),
    ],
)
def test_announce_refuses_models_that_do_not_beat_untrained_ones(
    log: Path, figures: dict[str, float], force: bool, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced: list[Path] = []
    nothing: Any = None
    checkpoint = Path("models/step-00000009")
    monkeypatch.setattr(model_command, "current", lambda _: None)

    def use(_: Settings, path: Path) -> CurrentModel:
        announced.append(path)
        return CurrentModel("announced", "v", str(path))

    monkeypatch.setattr(model_command, "use", use)
    monkeypatch.setattr(training, "fit", lambda *_, **__: Fitted(TINY, nothing, 9, figures, checkpoint))
    given = span_of_all() | {"log": log, "out": Path("models"), "announce": True, "force": force}
    if reason:
        with pytest.raises(NotBetter, match=rf"^{checkpoint} is not announced: .*{reason}; --force announces it$"):
            train(**given)
    else:
        train(**given)
    assert announced == ([] if reason else [checkpoint])


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("1700000000000", 1_700_000_000_000),
        ("2022-04-29", 1_651_190_400_000),
        ("2022-04-29T00:00:00+08:00", 1_651_161_600_000),
        ("2022-04-29T00:00:00.250Z", 1_651_190_400_250),
    ],
)
def test_a_time_is_an_iso_date_or_epoch_milliseconds(text: str, at: int) -> None:
    assert time_ms(text) == at


@pytest.mark.parametrize("text", ["yesterday", "", "2022-13-01", "-5", "99999999999999999"])
def test_an_invalid_time_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        time_ms(text)


def test_labelled_since_takes_a_time_for_each_action() -> None:
    found = labelled_since(["click=5", "*=9"])
    assert found == {action: 5 if action == "click" else 9 for action in ACTIONS}
    for wrong in ("click", "click=", "clack=5"):
        with pytest.raises(typer.BadParameter):
            labelled_since([wrong])


def read(log: Path | None) -> tuple[Log, str]:
    """A log, and the messages of its reading."""
    console = Console(file=io.StringIO(), width=200)
    with ProgressReport(console) as report:
        columns = read_log(log, report)
    return columns, console.file.getvalue()  # type: ignore[attr-defined]  # of StringIO


def test_invalid_lines_are_counted(log: Path) -> None:
    columns, messages = read(log)
    assert "2 messages are invalid (`foryou replay` lists them)" in messages
    assert len(columns.at) == 200


@pytest.mark.embedded
def test_topics_hold_the_same_log_as_a_directory(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedKafka(tmp_path) as kafka:
        settings = load(kafka=kafka.address, partitions=2)
        create_topics(settings)
        for topic in ("posts", "engagements"):
            lines = (log / f"{topic}.jsonl").read_bytes().splitlines()
            write(settings, *(Record(topic, b"%d" % number, line) for number, line in enumerate(lines)))
        monkeypatch.setenv("FORYOU_KAFKA", kafka.address)
        columns, messages = read(None)
    assert "2 messages are invalid (`foryou dead-letters` lists them)" in messages
    jax.tree.map(np.testing.assert_array_equal, columns, read(log)[0])
