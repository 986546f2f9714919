"""The models get the same inputs in service as in training: one event log goes through the code of both.

Service: the tables of the flows, the compact form of users and the worker's store, fed in the order of arrival. Events
arrive late, twice, out of order; posts are edited, deleted, restored and reposted, actions undone, and some posts are
older than the store keeps them. Training: the log as `foryou train` reads it, to its end.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from feed_worker.candidates.model_inputs import candidates_of, history_of
from infra.ports.clock import HOUR_MS, MINUTE_MS
from phoenix.data import slates
from phoenix.data.impressions import Log, log_of
from phoenix.data.point_in_time import PointInTimeCounts
from phoenix.features.inputs import CandidateInputs, History
from tests.feed_worker.builders import hydrated, query
from tests.phoenix.builders import SMALLEST
from thunder_ingest.counts.table import CountTable, changes_of
from thunder_ingest.events import (
    ACTIONS,
    Engagement,
    Event,
    Impression,
    PostCreated,
    PostDeleted,
    PostEvent,
)
from thunder_ingest.posts.store import PostStore, StoreLimits
from thunder_ingest.posts.table import PostTable, state_of
from thunder_ingest.users.compact_form import encode
from thunder_ingest.users.entries import entries_by_user
from thunder_ingest.users.state import compact, decode

T0 = 1_700_000_000_000
MAX_AGE_MS, REMEMBERED_MS = 48 * HOUR_MS, 72 * HOUR_MS
SPAN_MS = 100 * HOUR_MS
VIEWERS, POSTS, AUTHORS = 6, 60, 8
SURFACES = (None, "home", "search")
REQUESTS = 1_000


class Request(NamedTuple):
    """A viewer asks at a time, and sees some posts."""

    viewer: int
    at: int
    surface: str | None


class World:
    """A random log of events, each with its arrival, and the requests between them."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        created = np.sort(self.rng.integers(0, SPAN_MS, POSTS)).tolist()
        posts = [event for post, at in enumerate(created, 1) for event in self._post(post, T0 + at, created)]
        seen = [event for _ in range(900) for event in self._visit(created)]
        # requests have odd times and events even ones, so that none happens at the time of a request
        times = np.sort(self.rng.choice(SPAN_MS // 2, REQUESTS, replace=False)) * 2 + 1
        self.requests = [Request(self._any(VIEWERS), T0 + at, self._surface()) for at in times.tolist()]
        self.arrivals = sorted(self._arriving([*posts, *seen]), key=lambda arrival: arrival[0])

    def _any(self, count: int) -> int:
        return int(self.rng.integers(1, count + 1))

    def _surface(self) -> str | None:
        return SURFACES[self.rng.integers(0, len(SURFACES))]

    def _post(self, post: int, at: int, created: Sequence[int]) -> Iterator[PostEvent]:
        fields: dict[str, Any] = {"post_id": post, "author_id": 100 + post % AUTHORS}
        if post > 5 and self.rng.random() < 0.25:
            source = int(self.rng.integers(1, post)) if self.rng.random() < 0.8 else POSTS + post  # or an unknown one
            author = 100 + source % AUTHORS if self.rng.random() < 0.7 else None
            fields |= {"kind": "repost", "source_post_id": source, "source_author_id": author}
            yield PostCreated(at=at & ~1, **fields)
        else:
            fields |= {"kind": "original", "text": f"word{post} topic{post % 5}", "video_ms": 500 * (post % 3)}
            yield PostCreated(at=at & ~1, photos=post % 4, **fields)
            for _ in range(int(self.rng.integers(0, 3))):
                text = f"edited{self.rng.integers(0, 9)} topic{post % 5}"
                yield PostCreated(at=self._later(at), **fields | {"text": text})
        if self.rng.random() < 0.2:
            yield PostDeleted(post_id=post, at=self._later(at))

    def _later(self, at: int) -> int:
        return at + int(self.rng.integers(1, 40 * HOUR_MS)) & ~1

    def _visit(self, created: Sequence[int]) -> Iterator[Event]:
        post = self._any(POSTS)
        at = T0 + created[post - 1] + int(self.rng.exponential(15 * HOUR_MS)) & ~1
        ids: dict[str, Any] = {"user_id": self._any(VIEWERS), "post_id": post, "author_id": 100 + post % AUTHORS}
        ids["surface"] = self._surface()
        if self.rng.random() < 0.9:
            yield Impression(at=at, **ids)
        for action in self.rng.choice(ACTIONS, self.rng.integers(0, 4), replace=False).tolist():
            done = at + int(self.rng.exponential(4 * MINUTE_MS)) & ~1
            dwell_ms = int(self.rng.integers(0, 40_000)) if action == "dwell_time" else None
            yield Engagement(at=done, action=action, dwell_ms=dwell_ms, **ids)
            if self.rng.random() < 0.3:
                yield Engagement(at=self._later(done), action=action, undo=True, **ids)

    def _arriving(self, events: Sequence[Any]) -> Iterator[tuple[int, Event]]:
        """Each event with its arrival: one in five comes twice, half of them after later ones.

        All come before the next request, because a log does not say when its events came.
        """
        times = np.array([request.at for request in self.requests])
        for event in events:
            following = np.searchsorted(times, event.at)
            if following < len(times):
                for _ in range(1 + (self.rng.random() < 0.2)):
                    late = int(self.rng.integers(0, HOUR_MS)) if self.rng.random() < 0.5 else 0
                    yield min(event.at + late, int(times[following])), event


class Service:
    """The states of flows and worker, without Kafka and Redis between them."""

    def __init__(self) -> None:
        self.posts, self.counts = PostTable(REMEMBERED_MS), CountTable(REMEMBERED_MS)
        self.store = PostStore(StoreLimits(max_age_ms=MAX_AGE_MS))
        self.users: dict[str, dict[bytes, bytes]] = {}
        self._batches = 0

    def add(self, events: Sequence[Any], now_ms: int) -> None:
        """Apply a batch."""
        about_posts = [event for event in events if isinstance(event, PostEvent)]
        others = [event for event in events if not isinstance(event, PostEvent)]
        self._batches += 1
        states = [state_of(value, headers) for _, value, headers in self.posts.changes(about_posts, now_ms).records]
        self.store.apply([state for state in states if state is not None])
        self.counts.add(changes_of(others), now_ms)
        self.store.apply_counts(self.counts.drain(now_ms).records)
        self.store.expire(now_ms)
        for user, kinds in entries_by_user(others).items():
            fields = self.users.setdefault(user, {})
            fields[b"history+%d" % self._batches] = encode("history", kinds["history"])
            if self._batches % 7 == 0:
                folded = compact(fields)
                self.users[user] = {name: value for name, value in fields.items() if name not in folded.tails}
                self.users[user] |= folded.bases

    def inputs(self, request: Request, post_ids: Sequence[int]) -> tuple[History, CandidateInputs]:
        """The models' inputs for a request with these candidates."""
        state = decode(self.users.get(str(request.viewer), {}))
        asked = query(state, user_id=request.viewer, now_ms=request.at, surface=request.surface)
        candidates = hydrated(self.store, asked, *post_ids)
        return history_of([asked], self.store, SMALLEST), candidates_of([asked], [candidates], SMALLEST)


def served(world: World) -> Iterator[tuple[Request, list[int], tuple[History, CandidateInputs]]]:
    """Each request with the posts that it shows, and the inputs in service."""
    service, arrivals = Service(), iter([*world.arrivals, (world.requests[-1].at, None)])
    waiting = next(arrivals)
    for request in world.requests:
        while waiting[1] is not None and waiting[0] <= request.at:
            batch, until = list[Any](), waiting[0] + 20 * MINUTE_MS
            while waiting[1] is not None and waiting[0] <= min(request.at, until):
                batch.append(waiting[1])
                waiting = next(arrivals)
            service.add(batch, max(event.at for event in batch))
        service.store.expire(request.at)
        rows = service.store.rows_of(np.arange(1, POSTS + 1))
        stored = np.flatnonzero(rows >= 0) + 1
        shown = world.rng.permutation(stored)[:5].tolist()
        if shown:
            yield request, shown, service.inputs(request, shown)
            service.add(impressions(request, shown), request.at)


def impressions(request: Request, post_ids: Sequence[int]) -> list[Event]:
    return [
        Impression(
            user_id=request.viewer,
            post_id=post,
            author_id=100 + post % AUTHORS,
            at=request.at,
            surface=request.surface,
        )
        for post in post_ids
    ]


def test_every_input_is_the_same_in_service_and_in_training() -> None:
    world = World(1)
    answers = list(served(world))
    shown = [event for request, posts, _ in answers for event in impressions(request, posts)]
    log = log_of([*(event for _, event in world.arrivals), *shown], MAX_AGE_MS)
    totals = PointInTimeCounts(log)
    asked = {(request.viewer, request.at): (posts, inputs) for request, posts, inputs in answers}
    rows = np.flatnonzero([(viewer, at) in asked for viewer, at in zip(log.viewer_id, log.at, strict=True)])
    cut = slates.in_runs(log, rows, 5, 1, np.random.default_rng(0))
    histories = slates.history_of(log, cut, SMALLEST.history, SMALLEST.tokens)
    ranked = slates.candidates_of(log, totals, cut, SMALLEST.tokens)
    compared = Compared()
    for slate in range(len(cut.viewer_id)):
        one = slice(slate, slate + 1)
        posts, (history, candidates) = asked[int(cut.viewer_id[slate]), int(cut.requested_at[slate])]
        compared.history(History(*(column[one] for column in histories)), history)
        ids = log.posts.post_id[log.post[cut.rows[slate, cut.mask[slate]]]].tolist()
        trained = CandidateInputs(*(column[one] for column in ranked))
        compared.candidates(trained, candidates, [posts.index(post) for post in ids])
    compared.assert_covers_every_difference(log)


class Compared:
    """Compares inputs, and remembers what there was to compare."""

    def __init__(self) -> None:
        self.slates = self.forgotten_words = self.counted = 0

    def history(self, trained: History, served: History) -> None:
        for name, mine, its in zip(History._fields, trained, served, strict=True):
            np.testing.assert_array_equal(mine, its, err_msg=name)
            assert mine.dtype == its.dtype, name
        self.slates += 1
        self.forgotten_words += int((served.mask & ~served.tokens.any(axis=2)).sum())

    def candidates(self, trained: CandidateInputs, served: CandidateInputs, places: list[int]) -> None:
        for name, mine, its in zip(CandidateInputs._fields, trained, served, strict=True):
            expected = its if name == "surface" else its[:, places]
            found = mine if name == "surface" else mine[:, : len(places)]
            np.testing.assert_array_equal(found, expected, err_msg=name)
            assert mine.dtype == its.dtype, name
        self.counted += int((served.totals > 1).sum())

    def assert_covers_every_difference(self, log: Log) -> None:
        """The world has each kind of trouble often enough to be compared."""
        posts = log.posts
        assert self.slates > 900
        assert self.forgotten_words > 100
        assert self.counted > 100
        assert (posts.versions.post[1:] == posts.versions.post[:-1]).sum() > 10
        assert (~posts.versions.is_live).sum() > 5
        assert (posts.source != np.arange(len(posts.source))).sum() > 5
        assert log.events["undo"].sum() > 100
