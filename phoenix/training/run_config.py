"""The configuration of a training run from a TOML file.

    [model]
    base = "nano"           # a named configuration; the other keys are fields of `ModelConfig`
    dim = 128

    [training]              # fields of `TrainingConfig`
    rate = 6e-3

    [training.action_weights]
    favorite = 4.0

Fields that the file does not name keep the values of the base, or their defaults.
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from infra.ports.errors import UsageError
from phoenix.models.configs import ModelConfig, TrainingConfig, config_named

Config = TypeVar("Config", ModelConfig, TrainingConfig)

LEAST_BATCH: Final = 16
"""Slates of a step; with fewer, steps are noisy and use the processor badly."""
_BASE: Final = "base"
_DEFAULT_BASE: Final = "nano"
_MODEL: Final = [_BASE, *(field.name for field in fields(ModelConfig))]
_TRAINING: Final = [field.name for field in fields(TrainingConfig)]


class ConfigError(UsageError, ValueError):
    """A file with the configuration of a run cannot be used; the text is one line with its path and the reason."""


class RunConfig(NamedTuple):
    """The configuration of a run, with the names of the training fields that were chosen and not left at a default."""

    model: ModelConfig
    training: TrainingConfig
    chosen: frozenset[str] = frozenset()

    def choosing(self, **values: Any) -> "RunConfig":
        """The configuration with these fields of the training; None leaves a field as it is."""
        chosen = {name: value for name, value in values.items() if value is not None}
        return self._replace(training=replace(self.training, **chosen), chosen=self.chosen | set(chosen))

    def suited(self, examples: int) -> TrainingConfig:
        """The training with a batch size and a number of passes for this many examples, unless they were chosen.

        Small logs get smaller batches, and up to `most_epochs` passes, until a run has `least_steps`. Large ones keep
        the defaults. Smaller batches come first: in a second pass, the models learn ids by heart.
        """
        training = self.training
        slates = max(1, examples // training.candidates)
        if "batch" not in self.chosen:
            largest = slates * training.most_epochs // max(1, training.least_steps)
            power = 1 << max(0, largest.bit_length() - 1)
            training = replace(training, batch=min(training.batch, max(LEAST_BATCH, power)))
        if "epochs" not in self.chosen:
            wanted = -(-training.least_steps * training.batch // slates)
            training = replace(training, epochs=max(training.epochs, min(wanted, training.most_epochs)))
        return training


def read_run_config(path: Path | None, base: str | None = None) -> RunConfig:
    """Read the configuration of a run from a TOML file.

    Args:
        path: of the file; None: the base, and the defaults of the training.
        base: name of a configuration; takes precedence over the file's `base`. Without both it is `nano`.

    Raises:
        ConfigError: the file cannot be read, or has an unknown field or an invalid value.
        ValueError: without a file, `base` is unknown.

    """
    if path is None:
        return RunConfig(config_named(base or _DEFAULT_BASE), TrainingConfig())
    try:
        tables = tomllib.loads(path.read_text())
        _known(tables, ["model", "training"], "table ")
        model, training = (_table(tables, name) for name in ("model", "training"))
        _known(model, _MODEL, "field model.")
        _known(training, _TRAINING, "field training.")
        of_file = str(model.pop(_BASE, _DEFAULT_BASE))
        named = config_named(base or of_file)
        sizes = _converted("model", _named(model, path, named), ModelConfig)
        return RunConfig(sizes, _converted("training", _merged(training), TrainingConfig), frozenset(training))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # of TOML, of its encoding, or of a field
        raise ConfigError(f"{path}: {error}") from None


def _table(tables: Mapping[str, Any], name: str) -> dict[str, Any]:
    if not isinstance(table := tables.get(name, {}), dict):
        raise ValueError(f"{name} must be a table")
    return dict(table)


def _known(given: Iterable[str], known: list[str], what: str) -> None:
    """Refuse an unknown name, with the nearest known one."""
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            raise ValueError(
                f"unknown {what}{name}: {f'did you mean {near[0]}?' if near else 'valid: ' + ', '.join(known)}"
            )


def _named(given: dict[str, Any], path: Path, base: ModelConfig) -> dict[str, Any]:
    """All fields of a model; one that differs from its base gets the file's name, so that versions tell them apart."""
    name = {"name": path.stem} if given else {}
    return asdict(base) | name | given


def _merged(given: dict[str, Any]) -> dict[str, Any]:
    """All fields of a training; weights that a table does not name keep their defaults."""
    defaults = asdict(TrainingConfig())
    for name, value in given.items():
        if isinstance(defaults[name], Mapping) and isinstance(value, Mapping):
            _known(value, [*defaults[name]], f"action training.{name}.")
            defaults[name] = {**defaults[name], **value}
        else:
            defaults[name] = value
    return defaults


def _converted(name: str, values: dict[str, Any], kind: type[Config]) -> Config:
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at ")
        raise ValueError(f"{reason} - at {place.replace('$', name)}" if place else reason) from None
