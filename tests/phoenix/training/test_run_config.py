"""The configuration of a run from a file."""

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoenix.models.configs import BASE, NANO, ModelConfig, TrainingConfig
from phoenix.training.run_config import ConfigError, RunConfig, read_run_config
from thunder_ingest.events import ACTIONS

WORLD = Path(__file__).parents[3] / "examples/world.toml"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.toml"


def toml(table: str, values: dict[str, Any]) -> str:
    """A table; JSON's numbers, texts, flags and lists are TOML's, and a mapping is a table of its own."""
    plain = {name: value for name, value in values.items() if not isinstance(value, dict)}
    lines = [f"[{table}]", *(f"{name} = {msgspec.json.encode(value).decode()}" for name, value in plain.items())]
    inner = [toml(f"{table}.{name}", value) for name, value in values.items() if isinstance(value, dict)]
    return "\n".join([*lines, *inner, ""])


def test_every_field_of_both_configurations_can_come_from_a_file(path: Path) -> None:
    model = replace(
        BASE,
        name="own",
        likeness_first=True,
        widening=3,
        **{
            field.name: getattr(BASE, field.name) * 2
            for field in fields(ModelConfig)
            if field.name.endswith(("_rows", "dim"))
        },
    )
    numbers: dict[str, Any] = {
        field.name: round(value / 2, 6) if isinstance(value, float) else value + 1
        for field in fields(TrainingConfig)
        if isinstance(value := getattr(TrainingConfig(), field.name), int | float)
    }
    training = TrainingConfig(
        **numbers,
        dense="muon",
        action_weights=dict.fromkeys(ACTIONS, 0.25),
        positive_weights=dict.fromkeys(ACTIONS, 0.75),
    )
    path.write_text(toml("model", asdict(model)) + toml("training", asdict(training)))
    assert read_run_config(path) == RunConfig(model, training, frozenset(each.name for each in fields(TrainingConfig)))


@given(st.dictionaries(st.sampled_from(ACTIONS), st.floats(0, 9)), st.integers(1, 999))
def test_fields_without_a_line_keep_the_values_of_the_base_or_their_defaults(
    tmp_path_factory: pytest.TempPathFactory, weights: dict[Any, float], batch: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "partial.toml"
    path.write_text(
        toml("model", {"base": "base", "dim": 64}) + toml("training", {"batch": batch, "action_weights": weights})
    )
    whole = {**TrainingConfig().action_weights, **weights}
    expected = TrainingConfig(batch=batch, action_weights=whole)
    chosen = frozenset({"batch", "action_weights"})
    assert read_run_config(path) == RunConfig(replace(BASE, name="partial", dim=64), expected, chosen)
    assert read_run_config(path, "nano").model == replace(NANO, name="partial", dim=64)


def test_options_take_precedence_over_the_file(path: Path) -> None:
    path.write_text(toml("training", {"batch": 32, "epochs": 5}))
    found = read_run_config(path).choosing(batch=8, seed=3, shown_weight=None)
    chosen = frozenset({"batch", "epochs", "seed"})
    assert found == RunConfig(NANO, TrainingConfig(batch=8, epochs=5, seed=3), chosen)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[training]\nepoch = 3", "unknown field training.epoch: did you mean epochs?"),
        ("[model]\nbasis = 3", "unknown field model.basis: did you mean base?"),
        ("[model]\nxyz = 3", "unknown field model.xyz: valid: base, name, dim, layers, .*"),
        ("[modell]\ndim = 3", r"unknown table modell: did you mean model\?"),
        ("model = 3", "model must be a table"),
        (
            "[training.action_weights]\nfavourite = 1.0",
            "unknown action training.action_weights.favourite: did you mean favorite?",
        ),
        ("[training]\nrate = 'fast'", "Expected `float`, got `str` - at `training.rate`"),
        ("[training]\nviewer_dropout = 1.5", "Expected `float` <= 1.0 - at `training.viewer_dropout`"),
        ("[training]\nbatch = 0", "Expected `int` >= 1 - at `training.batch`"),
        ("[training]\naction_weights = 2", "Expected `object`, got `int` - at `training.action_weights`"),
        ("[training]\ndense = 'sgd'", "Invalid enum value 'sgd' - at `training.dense`"),
        ("[model]\ndim = 0", "Expected `int` >= 1 - at `model.dim`"),
        ("[model]\nkv_heads = 3", "run: kv_heads must divide heads, and head_dim must be even"),
        ("[model]\nbase = 'tiny'", "no model configuration 'tiny'; there are nano, small, base, large"),
        ("[model", "Expected .*"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(path: Path, text: str, reason: str) -> None:
    path.write_text(text)
    pattern = reason.replace("?", "\\?") if "\\" not in reason else reason
    with pytest.raises(ConfigError, match=rf"^{path}: {pattern}$"):
        read_run_config(path)


def test_a_file_that_is_missing_or_no_text_is_refused_in_one_line(path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"^{path} cannot be read: No such file or directory$"):
        read_run_config(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=rf"^{path}: .*can't decode.*$"):
        read_run_config(path)


def test_the_file_of_the_generated_world_is_valid_and_its_choices_are_its_own() -> None:
    model, training, chosen = read_run_config(WORLD)
    assert model.name == "world"
    assert not {"epochs", "seed"} & chosen
    assert training.action_weights["report"] == TrainingConfig().action_weights["report"]
