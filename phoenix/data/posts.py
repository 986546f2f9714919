"""The posts of a log: their newest content, and their content as of any moment.

Glossary of shapes:

    p: posts, by ascending id
    w: versions
    e: impression and engagement events
    T: text tokens of a post, padded with 0
    *n: any axes

Content, deletion and restoration follow the rules of the posts flow (`thunder_ingest.posts.table`), by event time. A
service has a post from its creation to its deletion, and until it is too old to be a candidate.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt32

from phoenix.data.groups import first_not_less
from thunder_ingest.events import REPOST, Post, PostCreated, PostDeleted, Refused
from thunder_ingest.events.text import MAX_TOKENS, padded_tokens
from thunder_ingest.posts.references import MAX_HOPS
from thunder_ingest.posts.table import from_event, join, newest_at

NEVER: Final = 2**62
_CONTENT: Final = ("tokens", "video_ms", "photos")
_FACTS: Final = ("author_id", "created_at", "source_id", "source_author_id", *_CONTENT)

Published = dict[int, list[Post]]
"""The facts of each event on a post, by post id."""


class Versions(NamedTuple):
    """The contents of the posts that have several, by post, then time."""

    post: Int64[np.ndarray, " w"]  # index into the posts
    at: Int64[np.ndarray, " w"]  # epoch ms of the edit, deletion or restoration
    is_live: Bool[np.ndarray, " w"]
    tokens: UInt32[np.ndarray, "w T"]
    video_ms: Int32[np.ndarray, " w"]
    photos: Int32[np.ndarray, " w"]

    def take(self, index: Any) -> "Versions":
        """Select versions by an index or mask."""
        return Versions(*(column[index] for column in self))


class Content(NamedTuple):
    """The contents of posts as of some moments."""

    is_stored: Bool[np.ndarray, "*n"]  # True: a service would have the post
    tokens: UInt32[np.ndarray, "*n T"]
    video_ms: Int32[np.ndarray, "*n"]
    photos: Int32[np.ndarray, "*n"]


class Posts(NamedTuple):
    """The posts of a log. A post without a `post_created` event has only its id and author.

    The content is that of the newest version that is live.
    """

    post_id: Int64[np.ndarray, " p"]
    author_id: Int64[np.ndarray, " p"]
    tokens: UInt32[np.ndarray, "p T"]
    created_at: Int64[np.ndarray, " p"]  # epoch ms; 0 without a `post_created` event
    video_ms: Int32[np.ndarray, " p"]
    photos: Int32[np.ndarray, " p"]
    source_id: Int64[np.ndarray, " p"]  # id of the post that a repost shares, else 0
    source_author_id: Int64[np.ndarray, " p"]
    source: Int64[np.ndarray, " p"]  # index of the post that a repost shares, else the own index
    versions: Versions
    max_age_ms: int = NEVER  # age above which a service does not have a post

    @property
    def published(self) -> list[np.ndarray[Any, Any]]:
        """The columns with the facts of the published posts."""
        known = self.created_at > 0
        return [getattr(self, name)[known] for name in ("post_id", *_FACTS)]

    def as_of(self, post: Int64[np.ndarray, "*n"], moment_ms: Int64[np.ndarray, "*n"]) -> Content:
        """Return the contents of posts, given by index, as of moments in epoch ms.

        A post has its first content before its creation, too.
        """
        is_stored = self.is_stored(post, moment_ms)
        content = Content(is_stored, self.tokens[post], self.video_ms[post], self.photos[post])
        version = self._version(post, moment_ms)
        has_several = version >= 0
        for name in _CONTENT:
            getattr(content, name)[has_several] = getattr(self.versions, name)[version[has_several]]
        return content

    def is_stored(self, post: Int64[np.ndarray, "*n"], moment_ms: Int64[np.ndarray, "*n"]) -> Bool[np.ndarray, "*n"]:
        """Return True for the posts that a service would have at a moment."""
        created_at = self.created_at[post]
        is_stored: Bool[np.ndarray, "*n"] = (created_at > 0) & (created_at <= moment_ms)
        is_stored &= created_at >= moment_ms - self.max_age_ms
        version = self._version(post, moment_ms)
        has_several = version >= 0
        is_stored[has_several] &= self.versions.is_live[version[has_several]]
        return is_stored

    def original(self, post: Int64[np.ndarray, "*n"], moment_ms: Int64[np.ndarray, "*n"]) -> Int64[np.ndarray, "*n"]:
        """Return the index of the post that viewers read: of a repost the first one that is no stored repost."""
        original: Int64[np.ndarray, "*n"] = self.source[post]
        for _ in range(MAX_HOPS):
            source = self.source[original]
            hops = (source != original) & self.is_stored(original, moment_ms)
            if not hops.any():
                break
            original = np.where(hops, source, original)
        return original

    def _version(self, post: Int64[np.ndarray, "*n"], moment_ms: Int64[np.ndarray, "*n"]) -> Int64[np.ndarray, "*n"]:
        """Return the index of the version at each moment, else of the first one; -1 for a post without versions."""
        versions = self.versions
        first, end = np.searchsorted(versions.post, post), np.searchsorted(versions.post, post, "right")
        newest = np.maximum(first_not_less(versions.at, first, end, moment_ms + 1) - 1, first)
        return np.where(first < end, newest, -1)

    def before(self, until_ms: int, shown: Int64[np.ndarray, " e"], authors: Int64[np.ndarray, " e"]) -> "Posts":
        """Return the posts as a log knows them that ends at `until_ms`; `shown` and `authors` are of its events."""
        versions = self.versions.take(self.versions.at < until_ms)
        known = (self.created_at > 0) & (self.created_at < until_ms)
        posts = self._replace(**{name: _where(known, getattr(self, name)) for name in _FACTS})
        live = np.flatnonzero(versions.is_live)
        for name in _CONTENT:
            getattr(posts, name)[self.versions.post] = 0
            getattr(posts, name)[versions.post[live]] = getattr(versions, name)[live]  # the last one of a post stays
        by_events = _authors(self.post_id, shown, authors)
        several = np.bincount(versions.post, minlength=len(known))[versions.post] > 1
        posts = posts._replace(author_id=np.where(known, posts.author_id, by_events), versions=versions.take(several))
        return posts._replace(source=_index_of(posts.post_id, posts.source_id))


def _where(known: Bool[np.ndarray, " p"], column: Any) -> Any:
    """Return a column [p, …] with zeros where `known` is False."""
    return column * known.reshape(-1, *(1,) * (column.ndim - 1))


def add(published: Published, event: PostCreated | PostDeleted) -> None:
    """Add the facts of an event."""
    post = from_event(event)
    published.setdefault(post.post_id, []).append(post)


def posts_of(
    published: Published, shown: Int64[np.ndarray, " e"], authors: Int64[np.ndarray, " e"], max_age_ms: int = NEVER
) -> Posts:
    """Return the published posts, those that they repost, and those that occur only in events.

    Args:
        published: facts by post.
        shown: posts of impressions and engagements.
        authors: their authors.
        max_age_ms: age above which a service does not have a post.

    """
    states = {post_id: _states(facts) for post_id, facts in published.items()}
    newest = {post_id: _newest(of_post) for post_id, of_post in states.items()}
    sources = [post.source_post_id for post in newest.values()]
    post_id = np.setdiff1d(np.concatenate([np.array([*newest, *sources], np.int64), shown]), 0)
    posts = Posts(
        post_id=post_id,
        author_id=_authors(post_id, shown, authors),
        **{name: np.zeros(len(post_id), np.int64) for name in ("created_at", "source_id", "source_author_id")},
        **_contents(len(post_id)),
        source=np.zeros(0, np.int64),
        versions=_versions(post_id, states),
        max_age_ms=max_age_ms,
    )
    at = np.searchsorted(post_id, np.array([*newest], np.int64))
    last = list(newest.values())
    posts.author_id[at] = [post.author_id for post in last]
    posts.created_at[at] = [post.created_at for post in last]
    posts.source_id[at] = [post.source_post_id * (post.kind == REPOST) for post in last]
    posts.source_author_id[at] = [post.source_author_id * (post.kind == REPOST) for post in last]
    _put(posts, at, last)
    return posts._replace(source=_index_of(post_id, posts.source_id))


def _states(facts: list[Post]) -> list[tuple[int, Post]]:
    """Return the states of a post, each with the time from which on it has it."""
    ordered = sorted(facts, key=lambda post: (newest_at(post), post.author_id))
    states = [(newest_at(ordered[0]), ordered[0])]
    for fact in ordered[1:]:
        since, state = states[-1]
        try:
            joined = join(state, fact)
        except Refused:  # the posts flow refuses a creation by another author, too
            continue
        if joined != state:
            at = newest_at(fact)
            states[-1:] = [(at, joined)] if at == since else [(since, state), (at, joined)]
    return states


def _newest(states: Sequence[tuple[int, Post]]) -> Post:
    """Return the last live state, else the last one."""
    return next((post for _, post in reversed(states) if post.is_live), states[-1][1])


def _versions(post_id: Int64[np.ndarray, " p"], states: Mapping[int, Sequence[tuple[int, Post]]]) -> Versions:
    several = [(of, at, post) for of, each in sorted(states.items()) if len(each) > 1 for at, post in each]
    versions = Versions(
        post=np.searchsorted(post_id, np.array([of for of, _, _ in several], np.int64)),
        at=np.array([at for _, at, _ in several], np.int64),
        is_live=np.array([post.is_live for _, _, post in several], np.bool_),
        **_contents(len(several)),
    )
    _put(versions, np.arange(len(several)), [post for _, _, post in several])
    return versions


def _contents(n: int) -> dict[str, Any]:
    """Return zeros for the columns of content."""
    return {"tokens": np.zeros((n, MAX_TOKENS), np.uint32)} | {
        name: np.zeros(n, np.int32) for name in ("video_ms", "photos")
    }


def _put(columns: Posts | Versions, at: Int64[np.ndarray, " n"], posts: Sequence[Post]) -> None:
    """Write the contents of posts."""
    columns.tokens[at] = padded_tokens([post.tokens for post in posts])
    columns.video_ms[at] = [post.video_ms for post in posts]
    columns.photos[at] = [post.photos for post in posts]


def _authors(
    post_id: Int64[np.ndarray, " p"], shown: Int64[np.ndarray, " e"], authors: Int64[np.ndarray, " e"]
) -> Int64[np.ndarray, " p"]:
    """Return the authors of posts by events on them, 0 without any."""
    found = np.zeros(len(post_id), np.int64)
    np.maximum.at(found, np.searchsorted(post_id, shown), authors)
    return found


def _index_of(post_id: Int64[np.ndarray, " p"], source_id: Int64[np.ndarray, " p"]) -> Int64[np.ndarray, " p"]:
    """Return the index of each post's source, the own index without one."""
    return np.where(source_id > 0, np.searchsorted(post_id, source_id), np.arange(len(post_id)))
