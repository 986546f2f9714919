"""`foryou explain`: gets the explanation of a user's last feed, or asks for one, and says what became of a post."""

from collections import Counter
from typing import Any, Final, NamedTuple

from rich.console import Console

from feed_worker.client import Client, NoFeed
from feed_worker.documents.explanation import Dropped, ExplainedItem, Explanation
from feed_worker.documents.feed import Feed
from infra.ports.errors import ForYouError
from thunder_ingest.events.ids import id64, published_form

DROPPED_BY: Final = {
    "age_filter": "it is older than posts may be",
    "author_socialgraph_filter": "the viewer blocks or mutes its author, or is blocked, there or in what it quotes",
    "core_data_filter": "its author is unknown",
    "current_visibility_filter": "it was deleted or labelled while the feed was made",
    "dedup_conversation_filter": "a better one of the same conversation is shown",
    "drop_duplicates_filter": "another source had found it before: once is enough",
    "ineligible_subscription_filter": "it is for subscribers of its author",
    "language_filter": "it is in a language that the request does not name",
    "muted_keyword_filter": "it contains words that the viewer muted",
    "oon_retweet_reply_filter": "it is a reply or repost by somebody whom the viewer does not follow",
    "previously_seen_filter": "the viewer has seen it",
    "previously_served_filter": "an earlier feed of the viewer had it",
    "retweet_dedup_filter": "the same post, or another repost of it, came first",
    "self_post_filter": "it is the viewer's own",
    "size": "the feed was full",
    "top_k_selector": "others scored higher",
    "video_filter": "it has a video, and the request wants none",
    "visibility_filter": "a label, or a deletion, hides it from this viewer",
}
"""What it means that a component dropped a post."""

NEVER_A_CANDIDATE: Final = (
    "no source found it. Either no worker has it (never published, refused, deleted, too old: `foryou state post ID` "
    "tells), or the viewer has seen it or was served it a moment ago (`foryou state user ID`), or it is out of reach: "
    "its author is not followed and it is neither near enough to the viewer's taste nor popular, or newer posts of the "
    "network came first"
)


class NotExplained(ForYouError, LookupError):
    """There is no explanation for a user."""


class Explained(NamedTuple):
    """An explanation, and the feed that is there now."""

    explanation: Explanation
    feed: Feed | None

    @property
    def is_of_the_feed(self) -> bool:
        """Whether it explains the feed that is there."""
        return self.feed is not None and self.feed.request_id == self.explanation.request_id


def explained(client: Client, user: str, *, ask: bool | None, timeout_s: float, err: Console) -> Explained:
    """The explanation of the user's last feed that has one.

    Args:
        client: to read with, and to ask.
        user: published form of the id.
        ask: request a feed with an explanation; None: where there is no explanation yet.
        timeout_s: how long to wait for that.
        err: told that a feed was requested: it is the user's next, and counts as served.

    Raises:
        NotExplained: there is none, and none was to be asked for.
        NoFeed: the request ended without a feed and without an explanation.

    """
    explanation = client.explain(user)
    if ask or (ask is None and explanation is None):
        err.print(f"requesting an explained feed for user {user}", highlight=False, markup=False)
        explanation = _asked(client, user, timeout_s)
    if explanation is None:
        raise NotExplained(f"no explanation for user {user}; ask for one: foryou explain {user} --ask")
    return Explained(explanation, client.feed(user))


def _asked(client: Client, user: str, timeout_s: float) -> Explanation | None:
    request_id = client.request_feed(user, explain=True)
    try:
        client.wait(user, request_id, timeout_s)
    except NoFeed:
        explanation = client.explain(user)
        if explanation is None or explanation.request_id != request_id:
            raise
        return explanation  # of how it came to nothing
    return client.explain(user)


def dropped_counts(explanation: Explanation) -> list[tuple[str, int]]:
    """How many candidates each component dropped, in the order of the pipeline."""
    return list(Counter(each.filter for each in explanation.dropped).items())


class Fate(NamedTuple):
    """What became of a post: an item of the feed, or dropped, or neither."""

    post_id: str
    item: ExplainedItem | None
    dropped: list[Dropped]

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        fate = "shown" if self.item else "dropped" if self.dropped else "never a candidate"
        drops = [{"filter": each.filter, "score": each.score, "rank": each.rank} for each in self.dropped]
        return {"post_id": self.post_id, "fate": fate, "item": self.item, "dropped": drops}


def fate_of(explanation: Explanation, post: str) -> Fate:
    """What became of a post; a duplicate may be dropped while the post itself is shown."""
    form = published_form(post)
    # what the store has forgotten stands there as a number
    names = {form, str(id64(form))}
    item = next((item for item in explanation.items if item.post_id in names), None)
    return Fate(form, item, [each for each in explanation.dropped if each.post_id in names])
