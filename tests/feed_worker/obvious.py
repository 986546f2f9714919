"""The pipeline again, after its sources, slow and obvious: one object at a time. Columns have to agree with it."""

from collections.abc import Sequence
from dataclasses import dataclass

from feed_worker.parameters import Parameters
from feed_worker.query import Query
from tests.feed_worker.builders import fixed_predictions
from thunder_ingest.events import ACTIONS, KINDS, Post
from thunder_ingest.text import tokenize


@dataclass
class Item:
    """A candidate on its way to a feed."""

    post: Post
    in_network: bool
    weighted: float = 0.0
    score: float = 0.0


class ObviousPipeline:
    """Filters, scores and selects from a world of posts, by post id."""

    def __init__(self, world: dict[int, Post], max_age_ms: int) -> None:
        self.world, self.max_age_ms = world, max_age_ms

    def feed(self, asked: Query, found: Sequence[int]) -> list[tuple[int, float]]:
        """Post ids and scores, best first, of what the sources found, in their order."""
        kept = self._filtered(asked, [self.world[post_id] for post_id in dict.fromkeys(found)])
        items = [Item(post, post.author_id in asked.viewer.following) for post in kept]
        self._score(items, asked.parameters)
        ranked = sorted(items, key=_rank)[: asked.parameters.selected_for(asked.size)]
        return [(item.post.post_id, item.score) for item in self._one_per_conversation(ranked)][: asked.size]

    def _filtered(self, asked: Query, posts: list[Post]) -> list[Post]:
        kept: list[Post] = []
        read: set[int] = set()
        for post in posts:
            early = self._is_candidate(asked, post)
            if early and self._original(post).post_id not in read:
                read.add(self._original(post).post_id)
                if self._may_be_shown(asked, post):
                    kept.append(post)
        return kept

    def _is_candidate(self, asked: Query, post: Post) -> bool:
        kind = KINDS[post.kind]
        if asked.now_ms - post.created_at > self.max_age_ms:
            return False
        if asked.user_id in (post.author_id, self._original(post).author_id):
            return False
        return post.author_id in asked.viewer.following or kind in ("original", "quote")

    def _may_be_shown(self, asked: Query, post: Post) -> bool:
        user = asked.viewer
        source = self.world.get(post.source_post_id)
        parent = self.world.get(post.in_reply_to_post_id)
        root = self.world.get(post.conversation_id)
        if (post.source_post_id and source is None) or (post.in_reply_to_post_id and parent is None):
            return False
        shown = [post] if source is None else [post, source]
        if any(each.subscriber_only and each.author_id not in user.subscriptions for each in shown):
            return False
        related = {post.post_id, post.source_post_id, post.in_reply_to_post_id}
        if related & {*asked.seen.tolist()} or related & {*asked.served.tolist()}:
            return False
        if any(_says(each, keyword) for each in shown for keyword in user.keywords):
            return False
        if post.author_id in user.mutes or any(
            each.author_id in user.blocks or each.author_id in user.blocked_by for each in shown
        ):
            return False
        if asked.request.exclude_videos and self._content(post).video_ms:
            return False
        followed = post.author_id in user.following
        checked = [(post, followed), (root, followed)]
        checked += [(each, each is not None and each.author_id in user.following) for each in (source, parent)]
        return all(each is None or _is_fit(each, known, asked.parameters) for each, known in checked)

    def _score(self, items: list[Item], parameters: Parameters) -> None:
        for item in items:
            original = self._original(item.post)
            predictions = dict(zip(ACTIONS, fixed_predictions(original.post_id), strict=True))
            predictions["dwell_time"] /= 1000
            if self._content(item.post).video_ms <= parameters.min_video_ms:
                predictions["vqv"] = 0.0
            combined = sum(predictions[action] * weight for action, weight in parameters.weights.items())
            item.weighted = item.score = _never_negative(combined, parameters)
        by_author: dict[int, int] = {}
        for item in sorted(items, key=_rank):
            author = self._original(item.post).author_id
            k = by_author[author] = by_author.get(author, -1) + 1
            floor = parameters.author_diversity_floor
            item.score *= (1 - floor) * parameters.author_diversity_decay**k + floor
        for item in items:
            secondary = KINDS[item.post.kind] in ("reply", "repost") and parameters.oon_factor_for_replies
            if secondary or not item.in_network:
                item.score *= parameters.oon_factor

    def _one_per_conversation(self, items: list[Item]) -> list[Item]:
        first: dict[int, Item] = {}
        for item in items:
            post = item.post
            key = post.conversation_id or post.in_reply_to_post_id or self._original_id(post)
            first.setdefault(key, item)
        return list(first.values())

    def _original_id(self, post: Post) -> int:
        return post.source_post_id if KINDS[post.kind] == "repost" else post.post_id

    def _original(self, post: Post) -> Post:
        """What is read; a repost of what nobody knows is at least known by its source's id."""
        if KINDS[post.kind] != "repost":
            return post
        unknown = Post(post_id=post.source_post_id, author_id=post.source_author_id or post.author_id)
        return self.world.get(post.source_post_id, unknown)

    def _content(self, post: Post) -> Post:
        return self.world.get(post.source_post_id, post) if KINDS[post.kind] == "repost" else post


def _rank(item: Item) -> tuple[float, int, int]:
    return -item.score, -item.post.created_at, -item.post.post_id


def _says(post: Post, keyword: str) -> bool:
    words, phrase = tokenize(post.text), tokenize(keyword)
    return bool(phrase) and any(words[i : i + len(phrase)] == phrase for i in range(len(words)))


def _is_fit(post: Post, followed: bool, parameters: Parameters) -> bool:
    labels = {label for label, at in post.labels.items() if at > 0}
    if labels & parameters.unsafe_labels:
        return False
    return followed or not labels & parameters.unsafe_labels_out_of_network


def _never_negative(combined: float, parameters: Parameters) -> float:
    weights = [weight for action, weight in parameters.weights.items() if action != "dwell_time"]
    weights += parameters.unpredicted_weights
    negative = sum(-weight for weight in weights if weight < 0)
    total = sum(abs(weight) for weight in weights)
    if combined < 0:
        return (combined + negative) / total * parameters.negative_offset
    return combined + parameters.negative_offset
