"""The sizes of the models, as data. A configuration's name is what `FORYOU_MODEL` chooses."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from thunder_ingest.events import ACTIONS, ActionName

_ACTION_WEIGHTS: Final[Mapping[ActionName, float]] = dict.fromkeys(ACTIONS, 0.1) | {
    "click": 1.0,
    "vqv": 1.0,
    "favorite": 4.0,
    "dwell_time": 0.3,
}
"""A favorite is rare and a matter of taste: with less, clicks and views drown it."""
_POSITIVE_WEIGHTS: Final[Mapping[ActionName, float]] = dict.fromkeys(ACTIONS, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """One size of both models.

    Attributes:
        name: what settings call it, and the beginning of a model version.
        dim: width of the residual stream, D.
        layers: transformer blocks.
        heads: query heads; `kv_heads` divides it.
        kv_heads: key/value heads, shared by groups of query heads.
        head_dim: width of a head, even.
        widening: of the feed-forward layers, before gating takes its third off.
        history: positions of the action history that are read, H; the newest ones.
        tokens: text tokens of a post that are read, T; the first ones.
        table_dim: width of the ranker's hashed embedding tables.
        embed_dim: width of the two-tower vectors and of that model's tables, E.
        user_rows: rows of the users' table, row 0 included; the same for the next three.
        post_rows: of the posts' table.
        author_rows: of the authors' tables.
        token_rows: of the text tokens' tables.
        likeness_first: whether untrained attention looks for what is like the position that asks, by author and words,
            and learns from there. So that "more of what was liked" need not be found by chance.
        batch_buckets: numbers of viewers that serving compiles for, ascending.
        candidate_buckets: numbers of candidates per viewer that are scored by one call, ascending.
        post_buckets: numbers of posts that are embedded by one call, ascending.

    """

    name: str
    dim: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    widening: int = 2
    history: int
    tokens: int
    table_dim: int
    embed_dim: int
    user_rows: int
    post_rows: int
    author_rows: int
    token_rows: int
    likeness_first: bool = False
    batch_buckets: tuple[int, ...] = (1, 4, 16)
    candidate_buckets: tuple[int, ...] = (256, 1_536)
    post_buckets: tuple[int, ...] = (16, 512)

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads or self.head_dim % 2:
            raise ValueError(f"{self.name}: kv_heads must divide heads, and head_dim be even")
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
"""For two CPU cores: demos, tests, laptops. One bucket each: there, larger calls cost what several small ones do."""

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
"""For a server's CPUs, or a small accelerator."""

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
"""For an accelerator with 80 GB and more: the tables take 28 GB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """How both models are trained.

    Attributes:
        seed: of the first parameters and of all chance.
        epochs: how often each example is met. Hashed ids are soon learned by heart: more than one seldom helps.
        batch: slates of a step, B.
        candidates: of each slate at most, C. They share a history that ends before the first of them, and what a viewer
            did last says most: the more candidates, the less of it is learned to be read.
        span_hours: a slate's rows lie within so long, where all their labels are known, for the same reason.
        complete_passes: how often an epoch meets the examples of the span of which all labels are known, where there
            are others.
        rate: learning rate of the ranker where it begins.
        table_rate: the same of its hashed tables.
        retrieval_rate: the same two of the two-tower model.
        retrieval_table_rate: likewise.
        falling: over which share of the run, at its end, the rates fall in a line to a twentieth. What comes last is
            what all is known of, from which some actions are learned alone.
        weight_decay: of all that is no table.
        dense: which optimiser moves all that is no table.
        viewer_dropout: share of slates whose viewer is made a stranger, so that not all is learned by heart.
        post_dropout: share of posts whose id is left out, in histories and candidates, so that content is learned.
        history_dropout: share of the history's positions that are left out, so that not all hangs on single ones.
        action_weights: how much each action counts in the ranker's loss.
        negative_weight: how much a post counts in the ranker's loss that another viewer was shown, taken for one that
            nothing follows on; there are as many of them as were shown. 0: none are added.
        positive_weights: how far an action says that a post was worth finding.
        shown_weight: the same of a post that was shown, whatever followed; 1.0 makes retrieval imitate what showed it.
        mean_of_last: of the steps at the end of a run, as a share of all, the parameters are averaged, and the mean is
            served: what single steps did by chance evens out. 0: the last ones are served.
        sampled_posts: random posts that retrieval is to tell from those worth finding.

    """

    seed: int = 0
    epochs: int = 1
    batch: int = 128
    candidates: int = 4
    span_hours: int = 24
    complete_passes: int = 2
    rate: float = 2.5e-3
    table_rate: float = 0.05
    retrieval_rate: float = 5e-3
    retrieval_table_rate: float = 0.5
    falling: float = 0.4
    weight_decay: float = 0.01
    dense: Literal["adamw", "muon"] = "adamw"
    viewer_dropout: float = 0.5
    post_dropout: float = 0.0
    history_dropout: float = 0.0
    action_weights: Mapping[ActionName, float] = field(default_factory=lambda: dict(_ACTION_WEIGHTS))
    negative_weight: float = 0.0
    positive_weights: Mapping[ActionName, float] = field(default_factory=lambda: dict(_POSITIVE_WEIGHTS))
    shown_weight: float = 1.0
    mean_of_last: float = 0.0
    sampled_posts: int = 2_048


CONFIGS: Final[dict[str, ModelConfig]] = {config.name: config for config in (NANO, SMALL, BASE, LARGE)}


def config_named(name: str) -> ModelConfig:
    """The configuration of that name; raises ValueError, naming those there are."""
    if name not in CONFIGS:
        raise ValueError(f"no model configuration {name!r}; there are {', '.join(CONFIGS)}")
    return CONFIGS[name]
