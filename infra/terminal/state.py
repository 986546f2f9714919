"""Views of the stored state of users and posts."""

from collections.abc import Mapping

from rich.console import Group
from rich.table import Table

from infra.ops.rebuild_users import RebuildResult
from infra.ops.state_post import EXPLAINED, PostContent, PostDocument, RecordLocation
from infra.ops.state_user import HistoryPosition, ServedPost, UserDocument
from infra.terminal.tables import counts_table, moment, plain


def user_view(document: UserDocument) -> Group:
    """The state of a user."""
    number = "" if document.number == document.user_id else f" ({document.number})"
    lists = document.edges | {"keywords": document.keywords, "seen": document.seen}
    parts = [
        counts_table(f"user {plain(document.user_id)}{number}", document.counts),
        _lists_table(lists, document.counts),
        _history_table(document.history),
        _served_table(document.served),
    ]
    return Group(*(part for part in parts if part.row_count))


def _lists_table(lists: Mapping[str, list[str]], counts: Mapping[str, int]) -> Table:
    table = Table(title="by id", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for kind, shown in lists.items():
        more = counts[kind] - len(shown)
        if counts[kind]:
            table.add_row(kind, plain(", ".join(shown)) + (f" … and {more:,} more" if more else ""))
    return table


def _history_table(history: list[HistoryPosition]) -> Table:
    table = Table(title="history, newest first", title_justify="left")
    for column in ("at", "post", "author", "actions"):
        table.add_column(column)
    table.add_column("dwell", justify="right")
    for each in history:
        actions = ", ".join(each.actions) or "seen, passed over"
        dwell = f"{each.dwell_ms / 1000:.1f} s" if each.dwell_ms else ""
        table.add_row(moment(each.at), each.post_id, each.author_id, actions, dwell)
    return table


def _served_table(served: list[ServedPost]) -> Table:
    table = Table(title="served, newest first", title_justify="left")
    table.add_column("at")
    table.add_column("post")
    for each in served:
        table.add_row(moment(each.at), each.post_id)
    return table


def post_view(document: PostDocument) -> Group:
    """The state of a post."""
    number = "" if document.number == document.post_id else f" ({document.number})"
    facts: dict[str, int | str] = {"state": f"{document.state}: {EXPLAINED[document.state]}"}
    if document.content:
        facts |= _facts(document.content)
    if document.record:
        facts["record"] = _where(document.record)
    facts |= _derived(document)
    table = Table(title=f"post {plain(document.post_id)}{number}", title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, plain(str(value)))
    totals = {name: total for name, total in document.counts.totals.items() if total} if document.counts else {}
    return Group(table, counts_table("counts", totals)) if totals else Group(table)


def _facts(content: PostContent) -> dict[str, int | str]:
    """The fields that are not empty, with readable times."""
    fields = {name: getattr(content, name) for name in PostContent.__struct_fields__}
    facts = {name: value for name, value in fields.items() if value not in (0, "", "0", False) and value != {}}
    facts |= {name: moment(fields[name]) for name in ("created_at", "at", "deleted_at") if fields[name]}
    if content.labels:
        facts["labels"] = ", ".join(f"{name} {_change(at)} {moment(abs(at))}" for name, at in content.labels.items())
    return facts


def _change(at: int) -> str:
    return "since" if at > 0 else "removed"


def _derived(document: PostDocument) -> dict[str, int | str]:
    counts, vector = document.counts, document.embedding
    return {
        "counts": f"{_where(counts.record)}; newest engagement {moment(counts.at)}" if counts else "none",
        "vector": f"model {vector.model_version}, {vector.dimensions} dimensions, {_where(vector.record)}"
        if vector
        else "none",
    }


def _where(place: RecordLocation) -> str:
    return f"partition {place.partition}, offset {place.offset}, written {moment(place.at)}"


def rebuild_summary(result: RebuildResult) -> str:
    """The result of a rebuild in one line."""
    refused = f", {result.refused:,} refused" if result.refused else ""
    oldest = result.oldest_engagement_at
    reach = "the log has no engagement" if oldest is None else f"the history begins at {moment(oldest)}"
    expired = ", earlier events have expired from the log"
    history, graph = (expired if topic in result.cut else "" for topic in ("engagements", "social-graph"))
    counts = f"{result.users:,} users written from {result.used:,} events{refused}; {reach}{history}"
    skipped = f"; {result.skipped:,} skipped: delete their keys, which the log names, and rebuild again"
    return f"{counts}; the graph is {'incomplete' + graph if graph else 'complete'}{skipped if result.skipped else ''}"
