"""Parameters of ranking: every weight, factor and limit that is not learned, in one typed file.

Each feed names the preset that ranked it. A preset that mirrors the published system names the tree that it mirrors.

Three parts of the published rules are missing. Follower counts are unknown here, so replies between mutual follows are
not boosted, and quality views of videos also count for viewers with 10,000 followers. A post's place among its
author's posts is not recorded as a training feature. No preset contains changes after August 2026, which are known from
third parties only.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import Meta

from infra.ports.clock import HOUR_MS, MINUTE_MS
from infra.ports.errors import UsageError
from thunder_ingest.events import ACTION_INDEX, ActionName
from thunder_ingest.events.labels import label_name

DWELL_TIME_UNIT_MS: Final = 1_000
"""The unit of the weight of dwell time: published heads predict seconds (a sigmoid times 30 s), ours milliseconds."""

Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Factor: TypeAlias = Annotated[float, Meta(ge=0, le=1_000)]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=1_000_000)]
Weight: TypeAlias = Annotated[float, Meta(ge=-1_000_000, le=1_000_000)]


class ParametersError(UsageError, ValueError):
    """An override cannot be used; the text is one line with its name and the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """The parameters of one feed.

    The maximum age of a post is a setting of the post store instead, since a replay raises it.

    The published new-author boost depends on the author's follower count, which is unknown here. Reach replaces it: the
    views of all stored posts of the author, those of two days, together. A new account with many followers counts as a
    new author until its first post has been viewed.

    Attributes:
        name: of the preset, with the overrides, as in feeds.
        weights: by predicted action; `dwell_time` per second of predicted dwell. A missing action has weight 0.
        unpredicted_weights: published weights of heads that these models do not have. They add nothing to a score, but
            belong to the totals that scale negative sums.
        negative_offset: the gap between negative and positive sums of weighted predictions (see `WeightedScorer`).
        min_video_ms: `vqv` counts only for videos strictly longer than this.
        new_author_boost: True to raise one post of a little-read author (see `NewAuthorBoostScorer`).
        new_author_max_views: only a post with fewer views is raised.
        new_author_max_reach: only a post of an author with at most so many views in total is raised.
        new_author_top_share: only a post within this share of the posts with a score is raised.
        new_author_slot: the place, from 0, whose score the raised post gets. The published system draws it from a range
            of this one place.
        author_diversity_decay: the factor from one post of an author to the next, above the floor; 0 to 1.
        author_diversity_floor: the minimum multiplier of an author's posts; 0 to 1.
        oon_factor: multiplies the score of out-of-network posts.
        oon_factor_for_replies: True to apply it to in-network replies and reposts, too.
        dpp_pool: the number of best posts that DPP re-ranking selects from; 0 turns it off.
        dpp_theta: the weight of score against diversity, from 0 (diversity alone) to below 1.
        in_network_max: the maximum number of candidates of ThunderSource.
        retrieval_max: the maximum number of candidates of PhoenixRetrievalSource.
        stand_in_posts: for a viewer without history, so many posts of followed accounts stand in for it.
        popular_max: the maximum number of candidates of PopularSource.
        popular_below: PopularSource adds candidates if the other sources found fewer than this.
        popular_negative_weight: so many positive engagements weigh as much as the negative action of one account.
        popular_few_accounts: reports, mutes, blocks and "not interested" of so many accounts on a post do not
            change its popularity. They hide it from these accounts only.
        popular_prior_engagements: added to the engagements of a post, so that few impressions prove little.
        popular_prior_impressions: added to its impressions.
        popular_half_life_ms: popularity halves within this time.
        repeat_below: a feed for which fewer new posts are left is filled up with posts that the viewer was served or
            has seen, marked as repeats; 0 turns it off. A screen shows about three posts.
        repeat_max: the maximum number of candidates of RepeatSource.
        max_candidates: the maximum number of candidates that the ranker scores; the rest rank last.
        top_k: the number of candidates selected before the post-selection filters.
        result_size: the feed size that `top_k` is meant for; larger feeds select proportionally more.
        served_window_ms: a post is not served again within this time.
        served_max: at most this many recently served posts are excluded, the newest.
        unsafe_labels: posts with one of these are hidden from all viewers.
        unsafe_labels_out_of_network: posts with one of these are shown to followers of the author only.
        keywords_ignore_accents: True for a muted `cafe` to hide `café`, and for `café` to hide `cafe`. False: a keyword
            with accents hides only texts with these accents; one without accents hides both.
        mutes_cover_parents: True if muted authors and keywords also hide replies to the posts that they hide. An app
            shows the answered post above its reply. Blocks always hide such replies.
        checkpoint: the directory of checkpoints whose ranker scores the candidates; empty for the model that serves.

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
    stand_in_posts: Annotated[int, Meta(ge=0, le=1_024)] = 0
    popular_max: Count = 500
    popular_below: Count = 300
    popular_negative_weight: Factor = 10.0
    popular_few_accounts: Count = 10
    popular_prior_engagements: Factor = 1.0
    popular_prior_impressions: Annotated[float, Meta(gt=0, le=1_000_000)] = 50.0
    popular_half_life_ms: Annotated[int, Meta(ge=1)] = 6 * HOUR_MS
    repeat_below: Count = 0
    repeat_max: Count = 500
    max_candidates: Count = 2_800
    top_k: Annotated[int, Meta(ge=1, le=10_000)] = 50
    result_size: Annotated[int, Meta(ge=1, le=10_000)] = 35
    served_window_ms: Annotated[int, Meta(ge=0)] = 10 * MINUTE_MS
    served_max: Count = 100
    unsafe_labels: frozenset[str] = frozenset({"spam", "gore", "illegal", "child_safety", "terrorism", "doxxing"})
    unsafe_labels_out_of_network: frozenset[str] = frozenset({"adult", "violence", "hate", "self_harm"})
    keywords_ignore_accents: bool = True
    mutes_cover_parents: bool = True
    checkpoint: str = ""

    def __post_init__(self) -> None:
        unknown = set(self.weights) - set(ACTION_INDEX)
        if unknown:
            raise ValueError(f"weights of unknown actions: {', '.join(sorted(unknown))}")

    @property
    def all_unsafe_labels(self) -> frozenset[str]:
        """The names of all labels that hide a post from some viewers."""
        return frozenset(map(label_name, self.unsafe_labels | self.unsafe_labels_out_of_network))

    @property
    def positive_total(self) -> float:
        """The sum of the positive discrete weights, P."""
        return sum(max(weight, 0.0) for weight in self._discrete())

    @property
    def negative_total(self) -> float:
        """The sum of the sizes of the negative discrete weights, N."""
        return sum(max(-weight, 0.0) for weight in self._discrete())

    def selected_for(self, size: int) -> int:
        """The number of candidates to select for a feed of `size`; more than `size`, since later filters drop some."""
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
    stand_in_posts=64,
    popular_max=400,
    repeat_below=3,
    max_candidates=1_536,
)
"""The default. It differs from `classic` in six ways.

- Every predicted action has a weight, so no private gesture of a viewer (a direct share, an opened profile, dwell time)
  is ignored.
- Negative actions weigh about four times as much: under `classic` five reposts outweigh a certain report. They stay far
  from `x-2026-08-12`, whose report weight of -234 needs a head that is calibrated to parts in ten thousand; the noise
  of a smaller model would decide the order.
- One place of a feed goes to a little-read author: a model that learns from shown posts learns nothing about authors
  that are never shown.
- Fewer candidates are taken: as many as the smallest model scores for one viewer in a tenth of a second on two cores.
- A viewer without history gets out-of-network posts that are close to those of the followed accounts.
- Where new posts run out, served posts come back, then seen ones: no reader looks at an empty feed.

DPP re-ranking is off: its cost in score depends on the quality of the vectors, and author diversity varies a feed, too.
"""

PRESETS: Final[Mapping[str, Parameters]] = {preset.name: preset for preset in (FORYOU, CLASSIC, X_2026_08_12)}

_FIXED: Final = ("name", "checkpoint")


def preset_named(name: str) -> Parameters:
    """The preset of a name; raises `ParametersError`, which lists the valid names."""
    if name not in PRESETS:
        raise ParametersError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


def overridden(parameters: Parameters, overrides: Mapping[str, Any]) -> Parameters:
    """The parameters with other values, as parsed from JSON; `weights` is merged by action.

    The new name lists the overrides, so that feeds show them.

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
        return replace(msgspec.convert(known | changed, Parameters), name=_name_with(parameters.name, overrides))
    except msgspec.ValidationError as error:
        raise ParametersError(str(error).replace("`$.", "`")) from None


def changed_names(overrides: Mapping[str, Any]) -> set[str]:
    """The names of the parameters that overrides change; a weight is named like `weights.reply`."""
    plain = {name for name in overrides if name != "weights"}
    return plain | {f"weights.{action}" for action in overrides.get("weights", ())}


def _name_with(name: str, overrides: Mapping[str, Any]) -> str:
    flat = {key: value for key, value in overrides.items() if key != "weights"}
    flat |= {f"weights.{action}": weight for action, weight in overrides.get("weights", {}).items()}
    return " ".join([name, *(f"{key}={json.dumps(value)}" for key, value in flat.items())])
