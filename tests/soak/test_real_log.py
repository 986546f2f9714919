"""A replay of a whole real log through the embedded stack. FORYOU_LOG is its directory, as for `foryou replay`."""

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


class LogFacts:
    """Facts about users and posts from a single pass over the log, in published forms of ids."""

    def __init__(self, log: Path) -> None:
        self.lines = self.usable = 0
        self.seen: dict[str, set[str]] = defaultdict(set)
        self.hidden_authors: dict[str, set[str]] = defaultdict(set)
        self.deleted: set[str] = set()
        for line in LogReader(log).lines():
            self.lines += 1
            try:
                event = decode(line.topic, line.raw)
            except Refused:
                continue
            self.usable += 1
            self._add(event)

    def _add(self, event: object) -> None:
        if isinstance(event, Impression) or (isinstance(event, Engagement) and not event.undo):
            self.seen[published_form(event.user_id)].add(published_form(event.post_id))
        elif isinstance(event, PostDeleted):
            self.deleted.add(published_form(event.post_id))
        elif type(event).__name__ in ("Block", "Mute"):
            self.hidden_authors[published_form(event.user_id)].add(published_form(event.target_id))  # type: ignore[attr-defined]


@pytest.mark.skipif(LOG is None, reason="FORYOU_LOG is not set")
def test_every_event_of_a_real_log_is_counted_and_no_feed_shows_hidden_posts() -> None:
    assert LOG is not None
    facts = LogFacts(Path(LOG))
    feeds: list[Feed] = []
    replay = Replay(Path(LOG), embedded=True, feeds=USERS)
    settings = Settings(clock="log", max_post_age_ms=60 * DAY_MS)
    report = run(replay, settings, console(stderr=True), lambda feed, _took_ms: feeds.append(feed))
    assert report.read.total() == facts.lines
    assert report.accepted == facts.usable
    assert report.accepted + report.dead_lettered == report.read.total()
    assert len({feed.user_id for feed in feeds}) == USERS
    for feed in feeds:
        assert feed.status == "ok"
        assert feed.items
        shown, authors = {item.post_id for item in feed.items}, {item.author_id for item in feed.items}
        assert feed.user_id not in authors
        assert not authors & facts.hidden_authors[feed.user_id]
        assert not shown & facts.deleted
        assert not shown & facts.seen[feed.user_id]
