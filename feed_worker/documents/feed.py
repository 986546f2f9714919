"""A feed as readers get it from Redis: JSON, ids as strings."""

from typing import Annotated, Any

import msgspec
from msgspec import Struct

from thunder_ingest.events import FeedStatus, KindName, RepeatName
from thunder_ingest.events.schemas import DIALECT

Id = Annotated[str, msgspec.Meta(description="an id in the form it was published in; a string, so none gets rounded")]
Time = Annotated[int, msgspec.Meta(description="epoch milliseconds")]


class Reason(Struct, kw_only=True):
    """An action that speaks for an item: its probability, and what it adds to the weighted score.

    For `dwell_time` the probability is the predicted dwell in milliseconds.
    """

    action: str
    probability: float
    contribution: float


class FeedItem(Struct, kw_only=True, omit_defaults=True):
    """A post in a feed; `reasons` are the three actions that add most to its score.

    `repeat` is there if the post is no new one: an earlier feed had it (`served`), or the viewer has seen it (`seen`).
    """

    rank: int
    post_id: Id
    author_id: Id
    kind: KindName
    source: str
    in_network: bool
    score: float
    created_at: Time
    repeat: RepeatName | None = None
    reasons: list[Reason]


class Feed(Struct, kw_only=True):
    """The document under `feed:{user}`.

    `model_version` is that of the ranker; `experiments` has the viewer's variant of each. `arrived_at` is the arrival
    of the request by the broker's clock and `offset` its place in its partition. Both order feeds: an older request
    never overwrites a newer feed. They are the last fields, because writers compare them without parsing the rest.
    """

    at: Time
    request_id: str
    user_id: Id
    status: FeedStatus
    generated_at: Time
    model_version: str
    parameters: str
    items: list[FeedItem]
    degradations: list[str]
    answers: list[str]
    experiments: dict[str, str] = {}
    surface: str = ""
    arrived_at: Time = 0
    offset: int = 0


def feed_schema() -> dict[str, Any]:
    """The JSON Schema of a feed."""
    return {"$schema": DIALECT, "title": "feed", **msgspec.json.schema(Feed)}
