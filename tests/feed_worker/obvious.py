"""A reference implementation of the pipeline after its sources: slow, obvious, one object at a time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp

import numpy as np

from feed_worker.candidates.query import Query
from feed_worker.parameters import Parameters
from tests.feed_worker.builders import fixed_predictions
from thunder_ingest.events import ACTIONS, KINDS, Post
from thunder_ingest.events.languages import primary_language
from thunder_ingest.events.muting import cut


@dataclass
class Item:
    """One candidate."""

    post: Post
    in_network: bool
    repeat: tuple[int, int] = (0, 0)
    """1 for a served post and 2 for a seen one, and when that last was; (0, 0) for a new one."""
    scored: bool = False
    score: float = 0.0
    chosen: bool = True


@dataclass
class ObviousPipeline:
    """Filters, scores and selects from a world of posts, by post id.

    Attributes:
        views: how often posts were seen.
        vectors: what the retrieval index has.
        rankers: predictions by post id, by checkpoint.

    """

    world: dict[int, Post]
    max_age_ms: int
    views: Mapping[int, int] = field(default_factory=dict)
    vectors: Mapping[int, np.ndarray] = field(default_factory=dict)
    rankers: Mapping[str, Callable[[int], Sequence[float]]] = field(default_factory=lambda: {"": fixed_predictions})

    def feed(self, asked: Query, found: Sequence[int]) -> list[tuple[int, float]]:
        """The post ids and scores of the feed, best first, given the sources' posts in their order."""
        kept = self._filtered(asked, [self.world[post_id] for post_id in dict.fromkeys(found)])
        items = [Item(post, post.author_id in asked.viewer.following, self._repeat(asked, post)) for post in kept]
        self._score(items, asked.parameters)
        selected = asked.parameters.selected_for(asked.size)
        self._choose(items, asked.parameters, selected)
        ranked = [item for item in sorted(items, key=_rank) if item.chosen][:selected]
        return [(item.post.post_id, item.score) for item in self._one_per_conversation(ranked)][: asked.size]

    def _filtered(self, asked: Query, posts: list[Post]) -> list[Post]:
        kept: list[Post] = []
        read: set[int] = set()
        allowed = [post for post in posts if self._is_candidate(asked, post) and self._may_be_shown(asked, post)]
        for post in sorted(allowed, key=lambda post: self._repeat(asked, post) != (0, 0)):
            if self._original(post).post_id not in read:
                read.add(self._original(post).post_id)
                kept.append(post)
        return [post for post in allowed if post in self._wanted(asked, kept)]

    def _wanted(self, asked: Query, posts: list[Post]) -> list[Post]:
        """The new posts, and where these are too few, as many repeats as a feed takes, oldest first."""
        new = [post for post in posts if self._repeat(asked, post)[0] == 0]
        if len(new) >= min(asked.parameters.repeat_below, asked.size):
            return new
        known = [post for post in posts if post not in new]
        known.sort(key=lambda post: (*self._repeat(asked, post), -post.created_at, -post.post_id))
        return new + known[: max(0, asked.parameters.selected_for(asked.size) - len(new))]

    def _repeat(self, asked: Query, post: Post) -> tuple[int, int]:
        user = asked.viewer
        times = [*zip(user.positions["post_id"].tolist(), user.positions["at"].tolist(), strict=True)]
        times += zip(user.served_ids.tolist(), user.served_at.tolist(), strict=True)
        times += [(post_id, asked.history_ms) for post_id in asked.requested_seen_ids().tolist()]
        related = {post.post_id, self._source_id(post), post.in_reply_to_post_id} - {0}
        known = 2 if related & {*asked.seen.tolist()} else int(bool(related & {*asked.served.tolist()}))
        return (known, max((at for post_id, at in times if post_id in related), default=0)) if known else (0, 0)

    def _is_candidate(self, asked: Query, post: Post) -> bool:
        kind = KINDS[post.kind]
        if asked.now_ms - post.created_at > self.max_age_ms:
            return False
        if asked.user_id in (post.author_id, self._original(post).author_id):
            return False
        return post.author_id in asked.viewer.following or kind in ("original", "quote")

    def _may_be_shown(self, asked: Query, post: Post) -> bool:
        user = asked.viewer
        shown, above, is_whole = self._referred(post)
        everything = [*shown, *above]
        if not is_whole:
            return False
        if any(each.subscriber_only and each.author_id not in user.subscriptions for each in everything):
            return False
        if not asked.parameters.repeat_below and self._repeat(asked, post)[0]:
            return False
        if any(_says(each, keyword) for each in everything for keyword in user.keywords):
            return False
        if {each.author_id for each in everything} & {*user.mutes, *user.blocks, *user.blocked_by}:
            return False
        if asked.request.exclude_videos and self._content(post).video_ms:
            return False
        langs = asked.request.langs
        if langs and (lang := primary_language(self._content(post).lang)) and lang not in langs:
            return False
        return all(_is_fit(each, each.author_id in user.following, asked.parameters) for each in everything)

    def _referred(self, post: Post) -> tuple[list[Post], list[Post], bool]:
        """What a post shows, all that is above that, and True if what must be known is."""
        shown, above, is_whole = [post], list[Post](), True
        for each in shown:
            if source_id := self._source_id(each):
                is_whole &= source_id in self.world
                shown += [self.world[source_id]] if self.world.get(source_id, post) not in shown else []
        for place, each in enumerate(queue := [*shown]):
            is_shown = place < len(shown)
            is_whole &= KINDS[each.kind] != "repost" or not self._is_repost(self._source_id(each))
            is_whole &= not is_shown or not each.in_reply_to_post_id or each.in_reply_to_post_id in self.world
            for ref in (self._source_id(each), each.in_reply_to_post_id, each.conversation_id):
                if ref in self.world and self.world[ref] not in queue:
                    queue.append(self.world[ref])
                    above.append(self.world[ref])
        return shown, above, is_whole

    def _source_id(self, post: Post) -> int:
        """The quoted post, or the original of a repost."""
        source_id, passed = post.source_post_id, set[int]()
        while KINDS[post.kind] == "repost" and self._is_repost(source_id) and source_id not in passed:
            passed.add(source_id)
            source_id = self.world[source_id].source_post_id
        return post.source_post_id if source_id in passed else source_id

    def _is_repost(self, post_id: int) -> bool:
        return post_id in self.world and KINDS[self.world[post_id].kind] == "repost"

    def _score(self, items: list[Item], parameters: Parameters) -> None:
        for item in items[: parameters.max_candidates]:
            item.scored = True
            item.score = _never_negative(self._combined(item.post, parameters), parameters)
        self._boost(items, parameters)
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

    def _combined(self, post: Post, parameters: Parameters) -> float:
        predict = self.rankers[parameters.checkpoint]
        predictions = dict(zip(ACTIONS, predict(self._original(post).post_id), strict=True))
        if self._content(post).video_ms <= parameters.min_video_ms:
            predictions["vqv"] = 0.0
        per_ms = {"dwell_time": 1000}
        return sum(predictions[action] * (w / per_ms.get(action, 1)) for action, w in parameters.weights.items())

    def _boost(self, items: list[Item], parameters: Parameters) -> None:
        ranked = [item for item in sorted(items, key=_rank) if item.score > 0 and not item.repeat[0]]
        if not parameters.new_author_boost or len(ranked) <= parameters.new_author_slot:
            return
        wanted = ranked[parameters.new_author_slot].score
        for item in ranked[: int(len(ranked) * parameters.new_author_top_share)]:
            own = [post.post_id for post in self.world.values() if post.author_id == item.post.author_id]
            reach = sum(self.views.get(post_id, 0) for post_id in own)
            seen = self.views.get(item.post.post_id, 0)
            is_new = reach <= parameters.new_author_max_reach and seen < parameters.new_author_max_views
            if KINDS[item.post.kind] in ("original", "quote") and is_new:
                if item.score < wanted:
                    item.score += wanted - item.score
                return

    def _choose(self, items: list[Item], parameters: Parameters, k: int) -> None:
        ranked = [item for item in sorted(items, key=_rank) if item.score > 0 and not item.repeat[0]]
        pool = ranked[: parameters.dpp_pool]
        if not pool:
            return
        alpha = parameters.dpp_theta / (2 * (1 - parameters.dpp_theta))
        quality = [exp(alpha * item.score / pool[0].score) for item in pool]
        kernel = np.array([[self._cosine(one, other) for other in pool] for one in pool]) * np.outer(quality, quality)
        chosen = chosen_one_by_one(kernel, k)
        for item in items:
            item.chosen = bool(item.repeat[0]) or any(item is pool[place] for place in chosen)

    def _cosine(self, one: Item, other: Item) -> float:
        if one is other:
            return 1.0
        pair = [self.vectors.get(self._original_id(item.post)) for item in (one, other)]
        a, b = (np.zeros(1) if vector is None else vector.astype(np.float64) for vector in pair)
        return float(a @ b / np.sqrt((a @ a) * (b @ b))) if len(a) == len(b) > 1 else 0.0

    def _one_per_conversation(self, items: list[Item]) -> list[Item]:
        first: dict[int, Item] = {}
        for item in items:
            post = item.post
            key = post.conversation_id or post.in_reply_to_post_id or self._original_id(post)
            first.setdefault(key, item)
        return list(first.values())

    def _original_id(self, post: Post) -> int:
        return self._source_id(post) if KINDS[post.kind] == "repost" else post.post_id

    def _original(self, post: Post) -> Post:
        """The post that the viewer reads; a stub with the source's id for a repost of an unknown post."""
        if KINDS[post.kind] != "repost":
            return post
        unknown = Post(post_id=self._source_id(post), author_id=post.source_author_id or post.author_id)
        return self.world.get(unknown.post_id, unknown)

    def _content(self, post: Post) -> Post:
        return self.world.get(self._source_id(post), post) if KINDS[post.kind] == "repost" else post


def chosen_one_by_one(kernel: np.ndarray, k: int, least: float = 1e-6) -> list[int]:
    """Greedy MAP inference for a DPP by its definition: each step adds the post with the largest determinant."""
    chosen: list[int] = []
    volume = 1.0
    while len(chosen) < min(k, len(kernel)):
        left = [i for i in range(len(kernel)) if i not in chosen]
        volumes = [float(np.linalg.det(kernel[np.ix_([*chosen, i], [*chosen, i])])) for i in left]
        best = int(np.argmax(volumes))
        if volumes[best] / volume <= least:
            break
        chosen.append(left[best])
        volume = volumes[best]
    return chosen


def _rank(item: Item) -> tuple[tuple[int, int], bool, float, int, int]:
    return item.repeat, not item.scored, -item.score, -item.post.created_at, -item.post.post_id


def _says(post: Post, keyword: str) -> bool:
    text, wanted = cut(post.text), cut(keyword)
    phrases = [phrase for phrase in (wanted.words, *wanted.groups) if phrase]
    return bool(phrases) and all(any(has(part, phrase) for part in (text.words, *text.groups)) for phrase in phrases)


def has(words: list[str], phrase: list[str]) -> bool:
    """True if the phrase stands in the words, side by side."""
    return any(words[i : i + len(phrase)] == phrase for i in range(len(words)))


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
