"""Read or request the explanation of a feed, and find the outcome of one post in it."""

from collections import Counter
from typing import Any, Final, NamedTuple

from rich.console import Console

from feed_worker.client import Client, NoFeed
from feed_worker.documents.explanation import Dropped, ExplainedItem, Explanation
from feed_worker.documents.feed import Feed
from infra.ports.errors import ForYouError
from thunder_ingest.events.ids import id64, published_form

DROPPED_BY: Final = {
    "age_filter": "the post is older than the maximum age",
    "author_socialgraph_filter": "a block or mute between the viewer and its author, or an author it refers to",
    "core_data_filter": "the author is unknown",
    "current_visibility_filter": "the post was deleted or labelled while the feed was made",
    "dedup_conversation_filter": "the feed shows a better post of the same conversation",
    "drop_duplicates_filter": "another source had already found the post",
    "feedback_filter": "a negative action of the viewer on the post, or on a post it refers to",
    "ineligible_subscription_filter": "the post is for subscribers of its author",
    "language_filter": "the request excludes the post's language",
    "muted_keyword_filter": "the post contains a keyword that the viewer muted",
    "oon_retweet_reply_filter": "a reply or repost by an author whom the viewer does not follow",
    "previously_seen_filter": "the viewer has seen the post",
    "previously_served_filter": "an earlier feed of the viewer had the post",
    "repeat_filter": "the viewer has seen the post or was served it, and enough others are left",
    "retweet_dedup_filter": "the same post, or another repost of it, came first",
    "self_post_filter": "the viewer is the author",
    "size": "the feed was full",
    "top_k_selector": "other posts scored higher",
    "video_filter": "the request excludes videos",
    "visibility_filter": "a label or a deletion hides the post from this viewer",
}
"""The reason for a drop, by component."""

NEVER_A_CANDIDATE: Final = (
    "No source found the post. Possible reasons: no worker has it, as it was never published, refused, deleted or too "
    "old (see `foryou state post ID`). The viewer has seen it, or was served it just now (see `foryou state user ID`). "
    "The viewer does not follow its author, and it is neither close to the viewer's taste nor popular. Newer posts of "
    "the network filled the list."
)


class NotExplained(ForYouError, LookupError):
    """A user has no explained feed, and none was requested."""


class ExplainedFeed(NamedTuple):
    """An explanation, and the current feed of the user."""

    explanation: Explanation
    feed: Feed | None

    @property
    def is_of_the_feed(self) -> bool:
        """True if the explanation belongs to the current feed."""
        return self.feed is not None and self.feed.request_id == self.explanation.request_id


def explained(client: Client, user: str, *, ask: bool | None, timeout_s: float, err: Console) -> ExplainedFeed:
    """The explanation of the user's last feed that has one.

    Args:
        client: reads the explanation and requests the feed.
        user: published form of the id.
        ask: request an explained feed; None: only if no explanation exists.
        timeout_s: maximum wait for the requested feed.
        err: console for the notice of the request. The requested feed is the user's next one and counts as served.

    Raises:
        NotExplained: no explanation exists, and `ask` is False.
        NoFeed: the request ended without a feed and without an explanation.

    """
    explanation = client.explain(user)
    if ask or (ask is None and explanation is None):
        err.print(f"requesting an explained feed for user {user}", highlight=False, markup=False)
        explanation = _requested(client, user, timeout_s)
    if explanation is None:
        raise NotExplained(f"no explained feed of user {user}; request one: `foryou explain {user} --ask`")
    return ExplainedFeed(explanation, client.feed(user))


def _requested(client: Client, user: str, timeout_s: float) -> Explanation | None:
    request_id = client.request_feed(user, explain=True)
    try:
        client.wait(user, request_id, timeout_s)
    except NoFeed:
        explanation = client.explain(user)
        if explanation is None or explanation.request_id != request_id:
            raise
        return explanation  # of an answer without posts
    return client.explain(user)


def dropped_counts(explanation: Explanation) -> list[tuple[str, int]]:
    """Number of candidates that each component dropped, in pipeline order."""
    return list(Counter(each.filter for each in explanation.dropped).items())


class PostOutcome(NamedTuple):
    """A post in an explanation: an item of the feed, dropped by components, or neither."""

    post_id: str
    item: ExplainedItem | None
    dropped: list[Dropped]

    def as_json(self) -> dict[str, Any]:
        """The document for `--json`."""
        outcome = "shown" if self.item else "dropped" if self.dropped else "never a candidate"
        drops = [{"filter": each.filter, "score": each.score, "rank": each.rank} for each in self.dropped]
        return {"post_id": self.post_id, "fate": outcome, "item": self.item, "dropped": drops}


def outcome_of(explanation: Explanation, post: str) -> PostOutcome:
    """The outcome of a post. A post may be shown while its duplicate from another source is dropped."""
    form = published_form(post)
    # the explanation has a number for a post that the store no longer holds
    names = {form, str(id64(form))}
    item = next((item for item in explanation.items if item.post_id in names), None)
    return PostOutcome(form, item, [each for each in explanation.dropped if each.post_id in names])
