"""Probes of `benchmarks.freshness`: a single event, then feed requests until a feed shows its effect.

A time runs from the publication of the event to the read of the first feed with its effect from Redis. All requests
come after the event. The next request follows the previous answer, but not before `INTERVAL_S`. A time is therefore an
upper bound: it exceeds the true one by up to the interval and one answer.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.background import FIRST_POST, post_fields
from benchmarks.load import Answered, Arrivals, send
from feed_worker.client import Client
from feed_worker.documents.explanation import Explanation
from infra.ports.clock import now_ms

INTERVAL_S: Final = 0.03
TIMEOUT_S: Final = 15.0
GONE_AFTER_S: Final = 1.0
"""A removed post in a feed requested at least this time after the event is a violation."""
HISTORY: Final = 100
"""Positions of a viewer's history, all of background posts."""
WATCHERS: Final = 120
"""Viewers who follow the author. A viewer gets a post at most once, so each requests one feed per post."""
CUT_POSTS: Final = 45
"""Posts of an author before a block or mute. Each feed of size 1 shows one that was not served before."""
_ALL: Final = 60  # size of a feed that shows all posts of an author
FIRST_OWN: Final = 4 * 10**12
_ids = itertools.count(FIRST_OWN)


class NotSeen(TimeoutError):
    """No feed showed the effect of an event in time."""


@dataclass
class Found:
    """The result of a probe: milliseconds until the effect, and number of removed posts in later feeds."""

    ms: float
    violations: int = 0


class Probes:
    """Sequential probes with accounts and posts of their own. Each thread needs its own instance."""

    def __init__(self, client: Client, arrivals: Arrivals, cuts: int) -> None:
        self._client, self._arrivals = client, arrivals
        self._author, self._viewer = next(_ids), next(_ids)
        self._liked = itertools.count(FIRST_POST)
        self._watchers = itertools.cycle([next(_ids) for _ in range(WATCHERS)])
        self._cuts = [(next(_ids), next(_ids)) for _ in range(cuts)]

    def prepare(self) -> None:
        """Publish follows, the viewer's history, and the posts of authors that will be blocked or muted."""
        followers = [self._viewer, *itertools.islice(self._watchers, WATCHERS)]
        self._client.publish(_event("follow", user_id=each, target_id=self._author) for each in followers)
        for viewer, author in self._cuts:
            self._client.publish(_event("follow", user_id=viewer, target_id=author))
            self._client.publish(_post(author, f"about to be gone {number}") for number in range(CUT_POSTS))

        self._client.publish(self._like() for _ in range(HISTORY))

    def _like(self) -> dict[str, Any]:
        post_id = next(self._liked)
        author_id = post_fields(post_id)["author_id"]
        return _event("engagement", user_id=self._viewer, post_id=post_id, author_id=author_id, action="favorite")

    # --- events that add posts ----------------------------------------------------------------------------------------

    def post_to_follower(self) -> Found:
        """A post of a followed author ▸ a feed with the post."""
        post = _post(self._author, "something new")
        since = self._publish(post)
        return Found(self._until(since, itertools.repeat(self._viewer), lambda feed: _shows(feed, post)))

    def post_to_index(self) -> Found:
        """A post of an author who is not followed, equal to a retrieved one ▸ an explanation with the post."""
        found = self._explained(self._feed_of(self._viewer, explain=True))
        scores = {int(item.post_id): item.retrieval_score for item in found.items if item.retrieval_score}
        known = [post_id for post_id in scores if post_id < FIRST_OWN]
        if not known:
            raise NotSeen(f"retrieval finds no background posts for viewer {self._viewer}")
        post = _post(**post_fields(max(known, key=lambda post_id: scores[post_id] or 0)))
        since = self._publish(post)
        return Found(self._until_explained(since, lambda explanation: str(post["post_id"]) in _candidates(explanation)))

    def engagement_to_history(self) -> Found:
        """An engagement ▸ an explanation whose history contains it."""
        liked = self._like()
        since = self._publish(liked)
        return Found(self._until_explained(since, lambda explanation: (explanation.history_at or 0) >= liked["at"]))

    # --- events that remove posts -------------------------------------------------------------------------------------

    def delete(self) -> Found:
        """A deletion ▸ a feed without the post."""
        return self._vanishes(lambda post: _event("post_deleted", **_named(post)))

    def label(self) -> Found:
        """A label that hides a post from all viewers ▸ a feed without the post."""
        return self._vanishes(lambda post: _event("post_labeled", label="spam", **_named(post)))

    def block(self) -> Found:
        """A block ▸ a feed without the author."""
        return self._cut("block")

    def mute(self) -> Found:
        """A mute ▸ a feed without the author."""
        return self._cut("mute")

    def _vanishes(self, event_of: Callable[[dict[str, Any]], dict[str, Any]]) -> Found:
        post = _post(self._author, "not for long")
        watchers = itertools.islice(self._watchers, WATCHERS)
        self._until(self._publish(post), watchers, lambda feed: _shows(feed, post))
        since = self._publish(event_of(post))
        ms = self._until(since, watchers, lambda feed: not _shows(feed, post))
        _wait_until(since + GONE_AFTER_S)
        return Found(ms, int(_shows(self._feed_of(next(self._watchers), in_network_only=True, size=_ALL), post)))

    def _cut(self, kind: str) -> Found:
        viewer, author = self._cuts.pop()
        if not self._shows_author(self._feed_of(viewer, in_network_only=True, size=1), author):
            raise NotSeen(f"viewer {viewer} gets no post of author {author} before the {kind}")
        since = self._publish(_event(kind, user_id=viewer, target_id=author))
        viewers = itertools.repeat(viewer, CUT_POSTS - 2)
        ms = self._until(since, viewers, lambda feed: not self._shows_author(feed, author), size=1)
        _wait_until(since + GONE_AFTER_S)
        return Found(ms, int(self._shows_author(self._feed_of(viewer, in_network_only=True, size=_ALL), author)))

    @staticmethod
    def _shows_author(answered: Answered, author: int) -> bool:
        return any(item.author_id == str(author) for item in answered.feed.items)

    # --- requests -----------------------------------------------------------------------------------------------------

    def _publish(self, event: dict[str, Any]) -> float:
        since = time.perf_counter()
        self._client.publish(event)
        return since

    def _feed_of(self, viewer: int, **options: Any) -> Answered:
        sent = send(self._client, viewer, **options)
        for answered in self._arrivals.wait([sent], TIMEOUT_S):
            if sent.request_id in answered.feed.answers:
                return answered
        raise NotSeen(f"no feed answers request {sent.request_id} of {viewer}")

    def _answers(self, viewers: Iterable[int], **options: Any) -> Iterator[Answered]:
        for viewer in viewers:
            answered = self._feed_of(viewer, **options)
            yield answered
            _wait_until(answered.sent.at + INTERVAL_S)

    def _until(
        self, since: float, viewers: Iterable[int], shows: Callable[[Answered], bool], size: int = _ALL
    ) -> float:
        for answered in self._answers(viewers, in_network_only=True, size=size):
            if shows(answered):
                return 1_000 * (answered.at - since)
            if answered.at - since > TIMEOUT_S:
                break
        raise NotSeen(f"no effect in {time.perf_counter() - since:.1f} s")

    def _until_explained(self, since: float, shows: Callable[[Explanation], bool]) -> float:
        for answered in self._answers(itertools.repeat(self._viewer), explain=True):
            if shows(self._explained(answered)):
                return 1_000 * (answered.at - since)
            if answered.at - since > TIMEOUT_S:
                break
        raise NotSeen(f"no effect in {time.perf_counter() - since:.1f} s")

    def _explained(self, answered: Answered) -> Explanation:
        explanation = self._client.explain(answered.sent.viewer)
        if explanation is None or explanation.request_id != answered.sent.request_id:
            raise NotSeen(f"no explanation of request {answered.sent.request_id}")
        return explanation


KINDS: Final = (
    Probes.post_to_follower,
    Probes.post_to_index,
    Probes.delete,
    Probes.block,
    Probes.mute,
    Probes.label,
    Probes.engagement_to_history,
)
CUTS: Final = (Probes.block, Probes.mute)


def _event(type_: str, **fields: Any) -> dict[str, Any]:
    return {"type": type_, "at": now_ms()} | fields


def _post(author_id: int, text: str) -> dict[str, Any]:
    return _event("post_created", post_id=next(_ids), author_id=author_id, text=text)


def _named(post: dict[str, Any]) -> dict[str, Any]:
    return {"post_id": post["post_id"], "author_id": post["author_id"]}


def _shows(answered: Answered, post: dict[str, Any]) -> bool:
    return any(item.post_id == str(post["post_id"]) for item in answered.feed.items)


def _candidates(explanation: Explanation) -> set[str]:
    return {item.post_id for item in explanation.items} | {dropped.post_id for dropped in explanation.dropped}


def _wait_until(at: float) -> None:
    time.sleep(max(0.0, at - time.perf_counter()))
