"""The explanation of a feed as readers get it from Redis: JSON, ids as strings."""

from typing import Any

import msgspec
from msgspec import Struct

from feed_worker.documents.feed import Id, Time
from thunder_ingest.events import FeedStatus, KindName, RepeatName
from thunder_ingest.events.schemas import DIALECT


class FunnelStep(Struct, kw_only=True):
    """The number of candidates before and after one component; for a source, before and after its candidates."""

    stage: str
    name: str
    entered: int = msgspec.field(name="in")
    left: int = msgspec.field(name="out")


class Dropped(Struct, array_like=True):
    """A candidate that a filter, the selector or the feed's size removed.

    `score` and `rank`, among all scored candidates and before re-ranking, are there if the candidate had been scored.
    """

    post_id: Id
    filter: str
    score: float | None = None
    rank: int | None = None


class ExplainedItem(Struct, kw_only=True, omit_defaults=True):
    """The arithmetic of one item's score.

    The terms sum up to `combined`; `combined` + `offset` = `weighted`;
    (`weighted` + `boost`) x `author_diversity` x `out_of_network` x `dpp` = `score`.
    `scored` is false if the ranker gave no predictions; the predictions and terms are then empty.
    """

    rank: int
    post_id: Id
    author_id: Id
    kind: KindName
    source: str
    in_network: bool
    created_at: Time
    repeat: RepeatName | None = None
    scored: bool
    retrieval_score: float | None
    predictions: dict[str, float]
    terms: dict[str, float]
    combined: float
    offset: float
    weighted: float
    boost: float
    author_diversity: float
    out_of_network: float
    dpp: float
    score: float


class Explanation(Struct, kw_only=True):
    """The document under `explain:{user}`: the source of each item, and the filter of every other candidate.

    `history_at` is the time of the newest of the `history_length` positions that the feed was ranked by.
    `timings_ms` is per component, `stages_ms` per stage: less than the sum of components that worked at the same time.
    `left_out` has the number of stored posts that the sources of new posts skip, because the viewer has `seen` them, or
    was `served` them and has not seen them.
    """

    at: Time
    request_id: str
    user_id: Id
    status: FeedStatus
    parameters: str
    history_length: int = 0
    history_at: Time | None = None
    degradations: list[str]
    funnel: list[FunnelStep]
    timings_ms: dict[str, float]
    stages_ms: dict[str, float] = {}
    items: list[ExplainedItem]
    dropped: list[Dropped]
    model_version: str = ""
    experiments: dict[str, str] = {}
    left_out: dict[RepeatName, int] = {}


def explanation_schema() -> dict[str, Any]:
    """The JSON Schema of an explanation."""
    return {"$schema": DIALECT, "title": "explain", **msgspec.json.schema(Explanation)}
