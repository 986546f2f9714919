"""How feeds, topics and checks look on a terminal."""

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from feed_worker.documents.feed import Feed, FeedItem, Reason
from infra.ports.kafka_admin import TopicState
from infra.ports.topics import TOPICS

PIPED_WIDTH = 160
TEXT_WIDTH = 46
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def console(*, stderr: bool = False) -> Console:
    """A console that does not squeeze tables into 80 columns where nobody looks at a terminal."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else PIPED_WIDTH)


def feed_table(
    feed: Feed,
    title: str = "",
    *,
    text_of: Callable[[str], str] | None = None,
    name_of: Callable[[str], str] = lambda author: author,
) -> Table:
    """A feed, a row an item; `text_of` and `name_of` tell a post's text and an author's name where they are known."""
    table = Table(title=title or f"user {feed.user_id}: {feed.status}", title_justify="left", caption=_caption(feed))
    table.add_column("#", justify="right")
    table.add_column("post", no_wrap=True)
    table.add_column("author", no_wrap=True)
    if text_of:
        table.add_column("text", max_width=TEXT_WIDTH, no_wrap=True)
    table.add_column("source", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("top reasons")
    for item in feed.items:
        text = [text_of(item.post_id)] if text_of else []
        cells = [str(item.rank), item.post_id, name_of(item.author_id), *text, _source(item), f"{item.score:.4f}"]
        table.add_row(*map(plain, cells), ", ".join(map(_reason, item.reasons)))
    return table


def plain(text: str) -> str:
    """Text as it is, in one line: what rich or a terminal would take for an instruction is not left to it."""
    return escape(_CONTROL.sub("\ufffd", " ".join(text.split())))


def moment(at_ms: int) -> str:
    """A time for readers, in UTC."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(" ", "milliseconds").replace("+00:00", "Z")


def _caption(feed: Feed) -> str:
    degraded = f"; degraded: {', '.join(feed.degradations)}" if feed.degradations else ""
    return plain(f"model {feed.model_version}, parameters {feed.parameters}{degraded}")


def _source(item: FeedItem) -> str:
    kind = "" if item.kind == "original" else f" ({item.kind})"
    return f"{item.source}{kind}"


def _reason(reason: Reason) -> str:
    if reason.action == "dwell_time":
        return f"dwell_time {reason.probability / 1000:.1f} s"
    return f"{reason.action} {reason.probability:.1%}"


def topics_table(states: Iterable[TopicState]) -> Table:
    """The topics, what stands in them, and what is wrong with them."""
    table = Table()
    for column in ("topic", "key", "retention", "content", "partitions"):
        table.add_column(column)
    for state in states:
        topic = TOPICS[state.name]
        there = f"[red]{state.problem}[/red]" if state.problem else str(state.partitions)
        table.add_row(topic.name, topic.key, topic.policy, topic.content, there)
    return table


def counts_table(title: str, counts: Mapping[str, int | str]) -> Table:
    """Names and figures."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in counts.items():
        table.add_row(plain(name), f"{value:,}" if isinstance(value, int) else value)
    return table
