"""Training as a library: `fit` trains both models on a span of a log and evaluates them on its newest examples."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from infra.ports.errors import UsageError
from phoenix.data.batches import Batches, Span
from phoenix.data.impressions import Log
from phoenix.evaluation.split import Split
from phoenix.models.configs import ModelConfig, TrainingConfig
from phoenix.models.parameters import Params, initial_params
from phoenix.serving.engine import Phoenix
from phoenix.training.checkpoints import Card, resume_newest
from phoenix.training.held_out import AUC, LOG_LOSS, HeldOut, split_of
from phoenix.training.loop import Checkpointing, Progress, take_steps
from phoenix.training.run_lock import locked
from phoenix.training.step import State, Trainer

UNTRAINED: Final = "untrained_"
"""Prefix of the figures of the untrained models."""


class NoExamples(UsageError, ValueError):
    """The span has no impression to learn from."""


class Checkpoints(NamedTuple):
    """Where a run saves checkpoints, and finds the one that it continues from."""

    directory: Path
    keep: int = 2  # newest checkpoints that stay; announced ones stay, too
    commit: str = "unknown"  # of the program, for the model card


class Begun(NamedTuple):
    """A run before its first step."""

    examples: int  # impressions to learn from
    held_out: int  # impressions left out for the evaluation
    steps: int  # of the whole run
    step: int  # steps taken before
    checkpoint: Path | None  # the one that the run continues from
    figures: dict[str, float]  # of the untrained models on the held-out examples


class Fitted(NamedTuple):
    """Trained models."""

    model: ModelConfig
    state: State
    steps: int
    figures: dict[str, float]  # of the last step; those of the untrained models have the prefix UNTRAINED
    checkpoint: Path | None  # the last one

    def phoenix(self, origin: str) -> Phoenix:
        """The models, ready to serve; `origin` is part of their version."""
        return Phoenix(self.model, self.state.served, origin)

    @property
    def is_better(self) -> bool | None:
        """Whether the models beat the untrained ones in both held-out figures; None without held-out figures."""
        figures = self.figures
        if LOG_LOSS not in figures:
            return None
        return figures[LOG_LOSS] < figures[UNTRAINED + LOG_LOSS] and figures[AUC] > figures[UNTRAINED + AUC]


def fit(
    log: Log,
    span: Span,
    model: ModelConfig,
    training: TrainingConfig,
    *,
    checkpoints: Checkpoints | None = None,
    every: int = 500,
    begun: Callable[[Begun], None] = lambda _: None,
    report: Callable[[Progress], None] = lambda _: None,
) -> Fitted:
    """Train both models, or continue an interrupted run to the same bits.

    Args:
        log: source of the examples and of their histories.
        span: limits of the examples and their labels. `training.held_out` of them, the newest, are left out of the
            training; after each interval, the models are evaluated on them beside the untrained models.
        model: sizes of the models.
        training: settings of the training.
        checkpoints: where to save checkpoints and to find those of an interrupted run; None: nowhere.
        every: steps between evaluations and checkpoints; the last step has both, too.
        begun: called once before the first step.
        report: called every 20 steps, after each interval and after the last step.

    Raises:
        NoExamples: the span has no impression.
        DirectoryInUse: another run writes to the directory of checkpoints.
        CheckpointError: all checkpoints there are damaged, or the newest is of another run.
        Diverged: too many steps in a row were skipped, because their losses or gradients are not finite.

    """
    with ExitStack() as exits:
        if checkpoints:
            exits.enter_context(locked(checkpoints.directory))
        split = split_of(log, span, training.held_out)
        batches = _batches(log, span if split is None else span._replace(until_ms=split.since_ms), model, training)
        trainer = Trainer(model, training, batches.steps)
        checkpointing = checkpoints and _checkpointing(checkpoints, batches, model, training)
        found = checkpointing and resume_newest(checkpointing.directory, checkpointing.card)
        last, state = found or (None, trainer.initial())
        evaluate, untrained = _evaluation(split, model, training)
        held_out = 0 if split is None else len(split.evaluated)
        begun(Begun(len(batches.rows), held_out, batches.steps, int(state.step), last, untrained))
        figures = evaluate(state.served) if int(state.step) == batches.steps else {}

        def reported(progress: Progress) -> None:
            nonlocal last, figures
            last, figures = progress.checkpoint or last, progress.figures
            report(progress)

        state = take_steps(trainer, batches, state, reported, checkpointing, every=every, evaluate=evaluate)
        return Fitted(model, state, batches.steps, figures, last)


def _batches(log: Log, span: Span, model: ModelConfig, training: TrainingConfig) -> Batches:
    try:
        return Batches(log, span, model, training)
    except ValueError as error:
        raise NoExamples(str(error)) from None


def _checkpointing(
    checkpoints: Checkpoints, batches: Batches, model: ModelConfig, training: TrainingConfig
) -> Checkpointing:
    directory, keep, commit = checkpoints
    data = batches.description
    card = Card(step=0, steps=batches.steps, model=model, training=training, data=data, commit=commit)
    return Checkpointing(directory, card, keep)


def _evaluation(
    split: Split | None, model: ModelConfig, training: TrainingConfig
) -> tuple[Callable[[Params], dict[str, float]], dict[str, float]]:
    """A function from parameters to held-out figures with those of the untrained models, and the latter alone."""
    if split is None:
        return lambda _: {}, {}
    held_out = HeldOut(split, model, training.action_weights)
    untrained = held_out.figures(initial_params(model, training.seed))
    beside = {UNTRAINED + name: value for name, value in untrained.items()}
    return lambda params: held_out.figures(params) | beside, untrained
