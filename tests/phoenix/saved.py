"""Checkpoints of untrained models, for tests of serving."""

from dataclasses import replace
from pathlib import Path

from phoenix.models.configs import NANO, ModelConfig, TrainingConfig
from phoenix.training.checkpoints import Card, save
from phoenix.training.step import Trainer

TINY = replace(
    NANO,
    name="tiny",
    dim=16,
    layers=1,
    head_dim=4,
    history=8,
    tokens=8,
    table_dim=4,
    embed_dim=8,
    user_rows=50,
    post_rows=90,
    author_rows=90,
    token_rows=90,
    candidate_buckets=(64,),
    post_buckets=(16, 128),
)


def saved(directory: Path, config: ModelConfig = TINY, seed: int = 0) -> Path:
    """Save the initial state of a training run as a checkpoint."""
    training = TrainingConfig(seed=seed)
    card = Card(step=0, steps=1, model=config, training=training, data={}, commit="of the test")
    return save(directory, Trainer(config, training, 1).initial(), card)
