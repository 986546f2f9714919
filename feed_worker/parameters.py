"""Every weight, factor and limit of ranking, in one typed file: the heuristics that remain beside the models.

A preset is named in each feed that it ranked. A preset that mirrors the published system names the tree it mirrors.

What the published presets have and these leave out, because nothing here knows who follows a viewer or an author: the
boost of replies between mutual follows, and the rule that quality views of videos do not count for viewers with 10,000
followers. Nor is a post's place among its author's recorded as a feature for training. What third parties report of
weights and rules after August 2026 is in none.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import Meta

from infra.ports.errors import UsageError
from thunder_ingest.events import ACTION_INDEX, ActionName

MINUTE_MS: Final = 60_000
DWELL_TIME_UNIT_MS: Final = 1_000
"""The continuous weight is per second: published heads emit seconds (a sigmoid times 30 s), ours milliseconds."""

Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Factor: TypeAlias = Annotated[float, Meta(ge=0, le=1_000)]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=1_000_000)]
Weight: TypeAlias = Annotated[float, Meta(ge=-1_000_000, le=1_000_000)]


class ParametersError(UsageError, ValueError):
    """An override cannot be used; the text is one line that says which and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What a pipeline is tuned by.

    The maximum age of a post is not among these: it is the post store's limit, a setting that a replay raises.

    The new-author boost is the published one but for the author's follower count, which nothing here knows. What stands
    for an audience of a thousand is reach: how often all posts of the author that are stored, those of two days, were
    seen together. An author of many followers who never posted counts as new until a post has been read.

    Attributes:
        name: of the preset, with what was overridden, as feeds quote it.
        weights: per predicted action; `dwell_time` per second of predicted dwell. An action without one counts 0.
        unpredicted_weights: published weights of heads that our models do not have. They add nothing to a score, but
            belong to the totals that the squeeze of negative sums is scaled by.
        negative_offset: what lies between the worst positive and the best negative sum (see `WeightedScorer`).
        min_video_ms: `vqv` counts only for videos strictly longer than this.
        new_author_boost: whether one post of an author whom few have read yet is raised (see `NewAuthorBoostScorer`).
        new_author_max_views: that post has been seen less often than this.
        new_author_max_reach: all stored posts of its author together have been seen at most so often.
        new_author_top_share: it ranks within this share of the posts that score anything.
        new_author_slot: it is raised to the score at this place, counted from 0. The published system draws the place
            from a range that holds this one alone.
        author_diversity_decay: each further post of an author counts this much of the one before, above the floor.
        author_diversity_floor: what a post keeps however many of its author's rank above it.
        oon_factor: multiplies the score of out-of-network posts.
        oon_factor_for_replies: whether replies and reposts from the network get that factor too.
        dpp_pool: of the best so many, re-ranking chooses the feed's by score and difference; 0: no re-ranking.
        dpp_theta: how much score counts against difference, from 0 (difference alone) to below 1.
        in_network_max: candidates from followed authors.
        retrieval_max: candidates from Phoenix retrieval.
        popular_max: candidates from what is popular, for viewers whom the other sources leave with little.
        popular_below: with fewer candidates than this from the other sources, popular ones are added.
        max_candidates: candidates scored by the ranker; any further ones go without, and rank last.
        top_k: candidates selected before the post-selection filters.
        result_size: the feed size that `top_k` is meant for; larger feeds select proportionally more.
        served_window_ms: what was served so recently is not served again.
        served_max: of at most this many posts, the newest.
        unsafe_labels: posts with one of these are shown to nobody.
        unsafe_labels_out_of_network: posts with one of these are shown to followers of the author only.
        checkpoint: directory of checkpoints whose ranker scores the candidates; empty: the model that is served.

    """

    name: str
    weights: Mapping[ActionName, Weight]
    unpredicted_weights: tuple[Weight, ...] = ()
    negative_offset: Factor = 0.001
    min_video_ms: Count = 10_000
    new_author_boost: bool = False
    new_author_max_views: Count = 1_000
    new_author_max_reach: Count = 1_000
    new_author_top_share: Share = 0.85
    new_author_slot: Count = 15
    author_diversity_decay: Share = 0.5
    author_diversity_floor: Share = 0.25
    oon_factor: Factor = 0.75
    oon_factor_for_replies: bool = True
    dpp_pool: Annotated[int, Meta(ge=0, le=1_000)] = 0
    dpp_theta: Annotated[float, Meta(ge=0, lt=1)] = 0.65
    in_network_max: Count = 1_200
    retrieval_max: Count = 1_000
    popular_max: Count = 500
    popular_below: Count = 300
    max_candidates: Count = 2_800
    top_k: Annotated[int, Meta(ge=1, le=10_000)] = 50
    result_size: Annotated[int, Meta(ge=1, le=10_000)] = 35
    served_window_ms: Annotated[int, Meta(ge=0)] = 10 * MINUTE_MS
    served_max: Count = 100
    unsafe_labels: frozenset[str] = frozenset({"spam", "gore", "illegal", "child_safety", "terrorism", "doxxing"})
    unsafe_labels_out_of_network: frozenset[str] = frozenset({"adult", "violence", "hate", "self_harm"})
    checkpoint: str = ""

    def __post_init__(self) -> None:
        unknown = set(self.weights) - set(ACTION_INDEX)
        if unknown:
            raise ValueError(f"weights of unknown actions: {', '.join(sorted(unknown))}")

    @property
    def positive_total(self) -> float:
        """The sum of the positive discrete weights, P."""
        return sum(max(weight, 0.0) for weight in self._discrete())

    @property
    def negative_total(self) -> float:
        """The sum of the sizes of the negative discrete weights, N."""
        return sum(max(-weight, 0.0) for weight in self._discrete())

    def selected_for(self, size: int) -> int:
        """How many candidates to select for a feed of `size`, so that post-selection filters leave enough."""
        return max(self.top_k, -(-size * self.top_k // self.result_size))

    def _discrete(self) -> list[float]:
        own = [weight for action, weight in self.weights.items() if action != "dwell_time"]
        return [*own, *self.unpredicted_weights]


CLASSIC: Final = Parameters(
    name="classic",
    weights={
        "favorite": 0.5,
        "reply": 0.3,
        "repost": 1.0,
        "quote": 1.0,
        "click": 0.1,
        "vqv": 0.2,
        "share": 1.0,
        "dwell": 0.1,
        "follow_author": 4.0,
        "not_interested": -1.0,
        "block_author": -3.0,
        "mute_author": -2.0,
        "report": -5.0,
    },
    oon_factor_for_replies=False,
)
"""The weights that public write-ups of January 2026 describe."""

X_2026_08_12: Final = Parameters(
    name="x-2026-08-12",
    weights={
        "favorite": 0.5,
        "reply": 5.0,
        "repost": 1.0,
        "photo_expand": 0.05,
        "click": 0.4,
        "profile_click": 0.0,
        "vqv": 0.05,
        "share": 2.0,
        "share_via_dm": 5.0,
        "share_via_copy_link": 20.0,
        "dwell": 0.0,
        "quote": 5.0,
        "quoted_click": 0.05,
        "follow_author": 4.0,
        "not_interested": -43.2,
        "block_author": -31.2,
        "mute_author": -58.8,
        "report": -234.0,
        "dwell_time": 0.004,
    },
    # video open, open link, post unexplored; not dwelled
    unpredicted_weights=(0.05, 0.2, 0.02, -0.02),
    new_author_boost=True,
    dpp_pool=150,
)
"""The weights of github xai-org/x-algorithm as of 2026-08-12 (tree 28e414f of 2026-08-21 has the same)."""

FORYOU: Final = replace(
    CLASSIC,
    name="foryou",
    weights={
        **CLASSIC.weights,
        "reply": 1.0,
        "photo_expand": 0.05,
        "profile_click": 0.1,
        "quoted_click": 0.05,
        "share_via_dm": 1.5,
        "share_via_copy_link": 1.5,
        "not_interested": -6.0,
        "block_author": -8.0,
        "mute_author": -8.0,
        "report": -20.0,
        "dwell_time": 0.01,
    },
    new_author_boost=True,
    in_network_max=900,
    retrieval_max=500,
    popular_max=400,
    max_candidates=1_536,
)
"""The default. It differs from `classic` in four ways, each for a reason.

Every predicted action has a weight, so that none of the viewer's private gestures (a direct share, a profile opened,
time spent) is predicted in vain. Negative actions weigh four times as much: under `classic` a certain report is made up
for by five reposts. They stay far from `x-2026-08-12`, whose report weight of -234 needs a head calibrated to parts in
ten thousand; with a smaller model its noise would decide the order. One place of a feed goes to an author whom few have
read, since a model that learns from what was shown learns nothing of those who never are. And fewer candidates are
taken, about what the smallest model scores for one viewer in a tenth of a second on two cores. Re-ranking by difference
is left off: what it costs in score depends on how good the vectors are, and author diversity keeps a feed varied too.
"""

PRESETS: Final[Mapping[str, Parameters]] = {preset.name: preset for preset in (FORYOU, CLASSIC, X_2026_08_12)}

_FIXED: Final = ("name", "checkpoint")


def preset_named(name: str) -> Parameters:
    """A preset; raises `ParametersError`, naming those that exist."""
    if name not in PRESETS:
        raise ParametersError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


def overridden(parameters: Parameters, overrides: Mapping[str, Any]) -> Parameters:
    """The parameters with other values, as JSON has them; `weights` names the actions whose weights change.

    The name says what was changed, so that a feed does.

    Raises:
        ParametersError: an unknown parameter, a value of a wrong type or out of range.

    """
    if not overrides:
        return parameters
    known: dict[str, Any] = {field: getattr(parameters, field) for field in Parameters.__slots__}
    for name in overrides:
        if name not in known or name in _FIXED:
            names = ", ".join(field for field in known if field not in _FIXED)
            raise ParametersError(f"no parameter {name!r}; there are {names}")
    changed = dict(overrides)
    if isinstance(weights := changed.get("weights"), Mapping):
        changed["weights"] = {**parameters.weights, **weights}
    try:
        return replace(msgspec.convert(known | changed, Parameters), name=_told(parameters.name, overrides))
    except msgspec.ValidationError as error:
        raise ParametersError(str(error).replace("`$.", "`")) from None


def keys_of(overrides: Mapping[str, Any]) -> set[str]:
    """What overrides change: parameters by name, weights each by its own, as `weights.reply`."""
    plain = {name for name in overrides if name != "weights"}
    return plain | {f"weights.{action}" for action in overrides.get("weights", ())}


def _told(name: str, overrides: Mapping[str, Any]) -> str:
    flat = {key: value for key, value in overrides.items() if key != "weights"}
    flat |= {f"weights.{action}": weight for action, weight in overrides.get("weights", {}).items()}
    return " ".join([name, *(f"{key}={json.dumps(value)}" for key, value in flat.items())])
