"""Model cards: what a checkpoint is, for programs and for readers."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import msgspec

from infra.ports.errors import UsageError
from phoenix.models.configs import ModelConfig, TrainingConfig

FORMAT: Final = 3


class CheckpointError(UsageError, ValueError):
    """A checkpoint cannot be used; the text is one line that says which and why."""


class Card(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a checkpoint is. It says all that a reader of figures asks for, and all that resuming depends on."""

    format: int = FORMAT
    step: int
    """How many have been taken."""
    steps: int
    """Of the whole run."""
    model: ModelConfig
    training: TrainingConfig
    data: dict[str, Any]
    """The span, the labels known, the size and a digest of what was learned from."""
    commit: str
    figures: dict[str, float] = {}
    digest: str = ""
    """Of the state; filled in by `save`."""


def markdown(card: Card) -> str:
    """The card for readers."""
    sections = {
        "Data": card.data,
        "Figures": card.figures,
        "Training": asdict(card.training),
        "Model": asdict(card.model),
    }
    head = (
        f"# {card.model.name}, step {card.step} of {card.steps}\n\n"
        "A ranker and a two-tower retrieval model, trained on a log of impressions and engagements. They learn from\n"
        "hashed ids, hashed text tokens, the history of actions and the counts of posts; no feature says how well a\n"
        "post suits a viewer.\n\n"
        f"Commit `{card.commit}`, digest of the state `{card.digest}`.\n"
    )
    return head + "".join(f"\n## {title}\n\n{_table(values)}" for title, values in sections.items())


def _table(values: Mapping[str, Any]) -> str:
    rows = "".join(f"| {name} | {_shown(value)} |\n" for name, value in values.items())
    return f"| | |\n| --- | --- |\n{rows}"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(each)}" for name, each in value.items()) or "none"
    return f"{value:.6g}" if isinstance(value, float) else f"{value}"
