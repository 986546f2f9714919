"""The baseline post store: a dictionary of posts and a deque per author."""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence

from thunder_ingest.events import ORIGINAL, QUOTE, REPLY, REPOST, Post
from thunder_ingest.posts.in_network import StoreLimits


class PlainStore:
    """A store with the read rules of `thunder_ingest.posts.in_network`; posts must arrive in order of time."""

    def __init__(self, limits: StoreLimits) -> None:
        self._limits = limits
        self._posts: dict[int, Post] = {}
        self._first: defaultdict[int, deque[int]] = defaultdict(deque)
        self._second: defaultdict[int, deque[int]] = defaultdict(deque)

    def apply(self, posts: Iterable[Post]) -> None:
        """Insert posts."""
        for post in posts:
            self._posts[post.post_id] = post
            lists = self._second if post.kind in (REPLY, REPOST) else self._first
            lists[post.author_id].append(post.post_id)

    def in_network(self, following: Sequence[int], viewer: int, excluded: set[int], now_ms: int) -> list[int]:
        """The newest posts by followed authors, as ids."""
        followed = set(following)
        found: list[Post] = []
        for author_id in following:
            for lists, limit in ((self._first, self._limits.originals), (self._second, self._limits.replies)):
                of_author = self._allowed(lists.get(author_id, deque()), viewer, excluded, followed, now_ms)
                found += (post for post, _ in zip(of_author, range(limit), strict=False))
        found.sort(key=lambda post: (post.created_at, post.post_id), reverse=True)
        return [post.post_id for post in found[: self._limits.max_results]]

    def _allowed(
        self, post_ids: deque[int], viewer: int, excluded: set[int], followed: set[int], now_ms: int
    ) -> Iterator[Post]:
        for post_id, _ in zip(reversed(post_ids), range(self._limits.scan), strict=False):
            post = self._posts[post_id]
            if post.created_at < now_ms - self._limits.max_age_ms:
                return
            if post_id not in excluded and self._is_shown(post, viewer, followed):
                yield post

    def _is_shown(self, post: Post, viewer: int, followed: set[int]) -> bool:
        if post.kind == REPOST:
            source = self._posts.get(post.source_post_id)
            return viewer not in (post.source_author_id, source.author_id if source else 0)
        if post.kind != REPLY:
            return True
        parent = self._posts.get(post.in_reply_to_post_id)
        if parent is None or parent.kind == REPOST:
            return False
        if parent.kind in (ORIGINAL, QUOTE):
            return True
        root = post.conversation_id or parent.conversation_id
        return parent.in_reply_to_post_id == root and parent.author_id in followed
