"""A real log, whole, through the embedded stack: FORYOU_LOG names its directory (as `foryou replay` takes it)."""

import os
from collections import defaultdict
from pathlib import Path

import pytest

from feed_worker.documents.feed import Feed
from infra.ops.replay.command import Replay, run
from infra.ops.replay.log_reader import LogReader
from infra.ports.clock import DAY_MS
from infra.ports.settings import Settings
from infra.terminal.tables import console
from thunder_ingest.events import Engagement, Impression, PostDeleted, Refused, decode
from thunder_ingest.events.ids import published_form

LOG = os.environ.get("FORYOU_LOG")
USERS = 100


class Told:
    """What a log says about users and posts, read once more, plainly."""

    def __init__(self, log: Path) -> None:
        self.lines = self.usable = 0
        self.seen: dict[str, set[str]] = defaultdict(set)
        self.cut: dict[str, set[str]] = defaultdict(set)
        self.deleted: set[str] = set()
        for line in LogReader(log).lines():
            self.lines += 1
            try:
                event = decode(line.topic, line.raw)
            except Refused:
                continue
            self.usable += 1
            self._take(event)

    def _take(self, event: object) -> None:
        if isinstance(event, Impression) or (isinstance(event, Engagement) and not event.undo):
            self.seen[published_form(event.user_id)].add(published_form(event.post_id))
        elif isinstance(event, PostDeleted):
            self.deleted.add(published_form(event.post_id))
        elif type(event).__name__ in ("Block", "Mute"):
            self.cut[published_form(event.user_id)].add(published_form(event.target_id))  # type: ignore[attr-defined]


@pytest.mark.skipif(LOG is None, reason="FORYOU_LOG names no log")
def test_every_event_of_a_real_log_is_accounted_for_and_no_feed_shows_what_it_must_not() -> None:
    assert LOG is not None
    told = Told(Path(LOG))
    feeds: list[Feed] = []
    replay = Replay(Path(LOG), embedded=True, feeds=USERS)
    settings = Settings(clock="log", max_post_age_ms=60 * DAY_MS)
    account = run(replay, settings, console(stderr=True), lambda feed, _took_ms: feeds.append(feed))
    assert account.read.total() == told.lines
    assert account.accepted == told.usable
    assert account.accepted + account.dead_lettered == account.read.total()
    assert len({feed.user_id for feed in feeds}) == USERS
    for feed in feeds:
        assert feed.status == "ok"
        assert feed.items
        shown, authors = {item.post_id for item in feed.items}, {item.author_id for item in feed.items}
        assert feed.user_id not in authors
        assert not authors & told.cut[feed.user_id]
        assert not shown & told.deleted
        assert not shown & told.seen[feed.user_id]
