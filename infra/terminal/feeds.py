"""The table of a feed."""

from collections.abc import Callable

from rich.console import Group
from rich.table import Table
from rich.text import Text

from feed_worker.documents.feed import Feed, FeedItem, Reason
from infra.terminal.tables import plain, stripped

AUTHOR_WIDTH = 24


def feed_table(
    feed: Feed,
    title: str = "",
    *,
    text_of: Callable[[str], str] | None = None,
    name_of: Callable[[str], str] = lambda author: author,
    about: Callable[[str], str] | None = None,
) -> Table:
    """A feed, one item a row: author, text, and below it the post's id, its source and its top reasons.

    Args:
        feed: the document.
        title: printed above; by default the user and the status.
        text_of: returns the text of a post's id; without it no text is shown.
        name_of: returns the name of an author's id.
        about: returns the topics of a post's id, for a column of their own.

    """
    title = title or f"user {feed.user_id}: {feed.status}, {len(feed.items)} posts"
    table = Table(title=plain(title), title_justify="left", caption=_caption(feed), caption_justify="left")
    table.add_column("#", justify="right")
    table.add_column("author", no_wrap=True, max_width=AUTHOR_WIDTH)
    table.add_column("post")
    if about:
        table.add_column("about", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    for item in feed.items:
        text = [Text(stripped(text_of(item.post_id)), no_wrap=True, overflow="ellipsis")] if text_of else []
        details = Text(stripped(_details(item)), style="dim" if text else "", overflow="fold")
        score = f"{item.score:.4f}"
        topics = [plain(about(item.post_id))] if about else []
        table.add_row(str(item.rank), plain(name_of(item.author_id)), Group(*text, details), *topics, score)
    return table


def _caption(feed: Feed) -> str:
    degraded = f"; degraded: {', '.join(feed.degradations)}" if feed.degradations else ""
    return plain(f"model {feed.model_version}, parameters {feed.parameters}{degraded}")


def _details(item: FeedItem) -> str:
    kind = "" if item.kind == "original" else f" ({item.kind})"
    repeat = f" ({item.repeat} before)" if item.repeat else ""
    return f"{item.post_id} · {item.source}{kind}{repeat} · {', '.join(map(_reason, item.reasons))}"


def _reason(reason: Reason) -> str:
    if reason.action == "dwell_time":
        return f"dwell_time {reason.probability / 1000:.1f} s"
    return f"{reason.action} {reason.probability:.1%}"
