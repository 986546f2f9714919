"""`foryou evaluate` on the log of a generated world, with a checkpoint of untrained models."""

import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from infra.cli.app import app
from infra.cli.learning_options import read_log
from infra.ports.clock import HOUR_MS
from infra.terminal.progress import ProgressReport
from infra.world import WorldConfig, generate
from phoenix.data.batches import Batches, Span
from phoenix.models.configs import NANO, ModelConfig, TrainingConfig
from phoenix.training import checkpoints
from phoenix.training.checkpoints import Card
from phoenix.training.step import Trainer
from thunder_ingest.events import encode

NOW = 1_790_000_000_000
SINCE = NOW - 4 * HOUR_MS
TINY = {"dim": 16, "layers": 1, "head_dim": 4, "history": 8, "table_dim": 4, "embed_dim": 8, "tokens": 8}
ROWS = {"user_rows": 50, "post_rows": 90, "author_rows": 90, "token_rows": 90}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("log")
    world = generate(WorldConfig(engagements=15_000), NOW)
    (directory / "posts.jsonl").write_bytes(b"\n".join(map(encode, world.posts)))
    (directory / "engagements.jsonl").write_bytes(b"\n".join([*map(encode, world.engagements), b"nonsense"]))
    return directory


@pytest.fixture(scope="module")
def checkpoint(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a run whose span ends at SINCE."""
    model = ModelConfig(name="tiny", heads=NANO.heads, kv_heads=NANO.kv_heads, **TINY, **ROWS)  # type: ignore[arg-type]
    with ProgressReport(Console(quiet=True)) as report:
        columns = read_log(log, report)
    training = TrainingConfig(batch=64)
    batches = Batches(columns, Span(NOW - 20 * HOUR_MS, SINCE, {"click": NOW - 19 * HOUR_MS}), model, training)
    out = tmp_path_factory.mktemp("run")
    state = Trainer(model, training, batches.steps).initial()
    card = Card(step=0, steps=batches.steps, model=model, training=training, data=batches.description, commit="none")
    checkpoints.save(out, state, card)
    return out


def run(log: Path, checkpoint: Path, *more: str, since: int = SINCE) -> tuple[int, str, str]:
    spans = ("--since", str(since), "--until", str(NOW + 1), "--replicates", "20")
    done = CliRunner().invoke(app, ["evaluate", "--log", str(log), "--checkpoint", str(checkpoint), *spans, *more])
    return done.exit_code, done.stdout, done.stderr


def test_the_report_as_json_holds_models_baselines_and_their_differences(log: Path, checkpoint: Path) -> None:
    code, out, err = run(log, checkpoint, "--json", "--action", "click", "--action", "favorite")
    assert code == 0, err
    report = json.loads(out)
    assert report["actions"].keys() == report["baselines"]["blend"]["actions"].keys() == {"click", "favorite"}
    assert 0 < report["actions"]["click"]["auc"] < 1
    assert 0 <= report["retrieval"]["recall@100"] <= 1
    assert report["differences"]["als"]["retrieval"]["interval"]["recall@100"]
    assert report["protocol"]["labelled_since"] == {"click": NOW - 19 * HOUR_MS}
    assert report["models"][0].startswith("tiny-seed0-step0-")
    assert "1 messages are invalid" in err


def test_the_report_as_tables_names_scorers_and_figures(log: Path, checkpoint: Path) -> None:
    code, out, err = run(log, checkpoint, "--action", "dwell")
    assert code == 0, err
    for expected in ("dwell: ", "gauc", "models", "trees_on_counts", "Δ", "retrieval: ", "recall@100", "item_item"):
        assert expected in out


def test_baselines_can_be_left_out(log: Path, checkpoint: Path) -> None:
    code, out, err = run(log, checkpoint, "--json", "--no-baselines")
    assert code == 0, err
    report = json.loads(out)
    assert report["baselines"] == report["differences"] == {}
    assert {"dwell", "favorite"} <= report["actions"].keys()


def test_a_model_trained_on_the_evaluated_span_is_refused(log: Path, checkpoint: Path) -> None:
    code, _, err = run(log, checkpoint, since=SINCE - HOUR_MS)
    assert code == 2
    assert "was trained on impressions up to" in err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--action", "liking"), "no action 'liking'"),
        (
            ("--action", "block_author", "--labelled-since", "block_author=2100-01-01"),
            "actions to evaluate in this log",
        ),
        (("--retrieved-for", "report", "--labelled-since", "report=2100-01-01"), "no report on a post that was new"),
        (("--since", str(NOW + 1)), "--since must come before --until"),
    ],
)
def test_a_wrong_option_is_refused_with_its_reason(
    log: Path, checkpoint: Path, options: tuple[str, ...], reason: str
) -> None:
    code, _, err = run(log, checkpoint, *options)
    assert code == 2
    assert reason in " ".join(err.replace("│", " ").split())


def test_a_directory_without_a_checkpoint_is_refused(log: Path, tmp_path: Path) -> None:
    code, _, _ = run(log, tmp_path)
    assert code == 1  # `infra.cli` prints a CheckpointError as one line
