"""Configurations of the models and of their training, as data. `FORYOU_MODEL` names a model configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from msgspec import Meta

from thunder_ingest.events import ACTIONS, ActionName

_ACTION_WEIGHTS: Final[Mapping[ActionName, float]] = dict.fromkeys(ACTIONS, 0.1) | {
    "click": 1.0,
    "vqv": 1.0,
    "favorite": 4.0,
    "dwell_time": 0.3,
}
"""A favorite is rare and shows a viewer's taste; with a lower weight, clicks and views outweigh it."""
_POSITIVE_WEIGHTS: Final[Mapping[ActionName, float]] = dict.fromkeys(ACTIONS, 1.0)

# the ranges apply to files and to cards of checkpoints
Natural = Annotated[int, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
Rate = Annotated[float, Meta(gt=0)]
Weight = Annotated[float, Meta(ge=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The sizes of both models.

    Attributes:
        name: the name in settings, and the first part of a model version.
        dim: width of the residual stream, D.
        layers: number of transformer blocks.
        heads: number of query heads, a multiple of `kv_heads`.
        kv_heads: number of key/value heads; a group of query heads shares one (Ainslie et al. 2023).
        head_dim: width of a head, even.
        widening: width of the feed-forward layers as a multiple of D; gating reduces it by a third.
        history: history positions that the models read, H; the newest ones.
        tokens: text tokens of a post that the models read, T; the first ones.
        table_dim: width of the ranker's hashed embedding tables, E there.
        embed_dim: width of the two-tower vectors and of that model's tables, E there.
        user_rows: rows of the table of users, row 0 included.
        post_rows: rows of the table of posts, row 0 included.
        author_rows: rows of each table of authors, row 0 included.
        token_rows: rows of each table of text tokens, row 0 included.
        likeness_first: True if queries start equal to keys: untrained attention then finds positions with a similar
            author and text, and training starts from there.
        batch_buckets: numbers of viewers that serving compiles for, ascending.
        candidate_buckets: numbers of candidates per viewer in one scoring call, ascending.
        post_buckets: numbers of posts in one embedding call, ascending.

    """

    name: Annotated[str, Meta(pattern=r"^[\w.-]+$")]
    dim: Count
    layers: Count
    heads: Count
    kv_heads: Count
    head_dim: Count
    widening: Count = 2
    history: Count
    tokens: Count
    table_dim: Count
    embed_dim: Count
    user_rows: Count
    post_rows: Count
    author_rows: Count
    token_rows: Count
    likeness_first: bool = False
    batch_buckets: tuple[int, ...] = (1, 4, 16)
    candidate_buckets: tuple[int, ...] = (256, 1_536)
    post_buckets: tuple[int, ...] = (16, 512)

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads or self.head_dim % 2:
            raise ValueError(f"{self.name}: kv_heads must divide heads, and head_dim must be even")
        for buckets in (self.batch_buckets, self.candidate_buckets, self.post_buckets):
            if not buckets or list(buckets) != sorted({*buckets}) or buckets[0] < 1:
                raise ValueError(f"{self.name}: buckets must be positive and ascending, not {buckets}")


NANO: Final = ModelConfig(
    name="nano",
    dim=64,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=16,
    history=64,
    tokens=32,
    table_dim=32,
    embed_dim=128,
    user_rows=20_000,
    post_rows=50_000,
    author_rows=20_000,
    token_rows=65_536,
    batch_buckets=(1,),
    candidate_buckets=(256,),
)
"""For two CPU cores: demos, tests, laptops. One bucket each: large calls cost there as much as several small ones."""

SMALL: Final = ModelConfig(
    name="small",
    dim=128,
    layers=4,
    heads=4,
    kv_heads=2,
    head_dim=32,
    history=128,
    tokens=64,
    table_dim=64,
    embed_dim=128,
    user_rows=200_000,
    post_rows=500_000,
    author_rows=200_000,
    token_rows=200_000,
    batch_buckets=(1, 4),
    candidate_buckets=(128, 1_024),
)
"""For the CPUs of a server, or for a small accelerator."""

BASE: Final = ModelConfig(
    name="base",
    dim=512,
    layers=4,
    heads=8,
    kv_heads=2,
    head_dim=64,
    history=512,
    tokens=64,
    table_dim=128,
    embed_dim=256,
    user_rows=2_000_000,
    post_rows=5_000_000,
    author_rows=1_000_000,
    token_rows=500_000,
    post_buckets=(64, 2_048),
)
"""For one accelerator."""

LARGE: Final = ModelConfig(
    name="large",
    dim=1_024,
    layers=8,
    heads=16,
    kv_heads=4,
    head_dim=64,
    history=1_024,
    tokens=64,
    table_dim=256,
    embed_dim=512,
    user_rows=10_000_000,
    post_rows=10_000_000,
    author_rows=5_000_000,
    token_rows=1_000_000,
    post_buckets=(64, 2_048),
)
"""For an accelerator with 80 GB or more; the tables take 28 GB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """The settings of the training of both models.

    Attributes:
        seed: seed of the initial parameters and of all random draws.
        epochs: passes over the examples. The models soon overfit hashed ids: a second pass seldom helps.
        batch: slates of a step, B.
        least_steps: steps of a run below which a small log gets smaller batches and more passes (`RunConfig.suited`).
        most_epochs: limit of these passes.
        candidates: maximum number of candidates of a slate, C. They share a history that ends before the first of them.
            The newest actions are the best predictors, so more candidates teach the model less about the history.
        span_hours: maximum time in hours between the rows of a slate with complete labels, for the same reason.
        complete_passes: passes of an epoch over the examples with complete labels, if the span has other examples, too.
        rate: peak learning rate of the ranker's dense parameters.
        table_rate: peak learning rate of the ranker's hashed tables.
        retrieval_rate: peak learning rate of the two-tower model's dense parameters.
        retrieval_table_rate: peak learning rate of the two-tower model's hashed tables.
        falling: share of the run, at its end, with linear decay of the learning rates to a twentieth. The examples with
            complete labels come last; for some actions they are the only examples.
        weight_decay: decoupled weight decay of the dense parameters.
        dense: optimiser of the dense parameters.
        viewer_dropout: share of slates without the viewer's id (id dropout, against overfitting).
        post_dropout: share of posts without their id, in histories and candidates (id dropout): the model then learns
            from content.
        history_dropout: share of history positions that are masked, so that no single position dominates.
        action_weights: weight of each action in the ranking loss.
        negative_weight: weight of a sampled negative in the ranking loss: a post that another viewer was shown, with
            all labels 0. There is one for each shown post. 0: none.
        positive_weights: weight of a post in the retrieval loss for each action on it.
        shown_weight: weight in the retrieval loss of a post that was shown; with 1.0, retrieval imitates the ranking
            that showed the posts.
        mean_of_last: share of the run, at its end, over whose steps the served parameters are averaged (Polyak and
            Juditsky 1992), against the noise of single steps. 0: the last parameters are served.
        sampled_posts: random posts among which the retrieval loss must find the positive ones.
        held_out: share of the span's impressions, the newest, that training leaves out to evaluate the models on them.

    """

    seed: Natural = 0
    epochs: Count = 1
    batch: Count = 128
    least_steps: Natural = 500
    most_epochs: Count = 1
    candidates: Count = 4
    span_hours: Count = 24
    complete_passes: Count = 2
    rate: Rate = 2.5e-3
    table_rate: Rate = 0.05
    retrieval_rate: Rate = 5e-3
    retrieval_table_rate: Rate = 0.5
    falling: Share = 0.4
    weight_decay: Weight = 0.01
    dense: Literal["adamw", "muon"] = "adamw"
    viewer_dropout: Share = 0.5
    post_dropout: Share = 0.0
    history_dropout: Share = 0.0
    action_weights: Mapping[ActionName, Weight] = field(default_factory=lambda: dict(_ACTION_WEIGHTS))
    negative_weight: Weight = 0.0
    positive_weights: Mapping[ActionName, Weight] = field(default_factory=lambda: dict(_POSITIVE_WEIGHTS))
    shown_weight: Weight = 1.0
    mean_of_last: Share = 0.0
    sampled_posts: Natural = 2_048
    held_out: Share = 0.1


CONFIGS: Final[dict[str, ModelConfig]] = {config.name: config for config in (NANO, SMALL, BASE, LARGE)}


def config_named(name: str) -> ModelConfig:
    """The configuration with that name; raises ValueError with the valid names."""
    if name not in CONFIGS:
        raise ValueError(f"no model configuration {name!r}; there are {', '.join(CONFIGS)}")
    return CONFIGS[name]
