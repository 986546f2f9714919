"""`foryou state user`: what the system knows of a user, as a feed would be made with it.

Inside, every id but the user's own is an int64; for an id that was published as a string that is its hash.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from numpy.typing import NDArray
from rich.console import Group
from rich.table import Table

from infra.ports.errors import StateUnreadable
from infra.ports.redis import connect
from infra.ports.settings import Settings
from infra.terminal.tables import counts_table, moment, plain
from thunder_ingest.events import ACTIONS
from thunder_ingest.events.ids import id64, published_form
from thunder_ingest.users.entries import EDGE_KINDS
from thunder_ingest.users.redis_form import UserStates
from thunder_ingest.users.state import UserState


class Position(msgspec.Struct):
    """What a user did with a post in one go; no actions: it was only seen."""

    at: int
    post_id: str
    author_id: str
    actions: list[str]
    dwell_ms: int
    surface: int


class Served(msgspec.Struct):
    """A post that was in a feed."""

    at: int
    post_id: str


class UserDocument(msgspec.Struct):
    """What is known of a user: all counted, of each kind no more than was asked for."""

    user_id: str
    number: str
    is_known: bool
    """False where nothing is known but what was served."""
    counts: dict[str, int]
    history: list[Position]
    """Newest first."""
    edges: dict[str, list[str]]
    """following, blocks, blocked_by, mutes, subscriptions: by id, since when is not kept for reading."""
    keywords: list[str]
    seen: list[str]
    """By id; of posts seen before those, counted as `seen_before`, the ids are no longer kept."""
    served: list[Served]
    """Newest first."""


def read(settings: Settings, user: str, limit: int) -> UserDocument | None:
    """What is known of a user, None where nothing is; `limit` of each kind.

    Raises:
        RedisUnreachable: naming the address and what to do.
        StateUnreadable: where what stands there cannot be read.

    """
    form = published_form(user)
    client = connect(settings)
    try:
        (state,) = UserStates(client).read([form])
    except ValueError as error:
        raise StateUnreadable(str(error)) from error
    finally:
        client.close()
    return _document(form, state, limit) if state.is_known or len(state.served_ids) else None


def _document(form: str, state: UserState, limit: int) -> UserDocument:
    edges = {kind: getattr(state, kind) for kind in EDGE_KINDS}
    counts = {"history": len(state.positions), **{kind: len(ids) for kind, ids in edges.items()}}
    counts |= {"keywords": len(state.keywords), "seen": len(state.seen)}
    counts |= {"seen_before": len(state.seen_before), "served": len(state.served_ids)}
    served = zip(state.served_at[::-1][:limit].tolist(), state.served_ids[::-1][:limit].tolist(), strict=True)
    return UserDocument(
        user_id=form,
        number=str(id64(form)),
        is_known=state.is_known,
        counts=counts,
        history=[_position(position) for position in state.positions[::-1][:limit]],
        edges={kind: _forms(ids, limit) for kind, ids in edges.items()},
        keywords=list(state.keywords[:limit]),
        seen=_forms(state.seen, limit),
        served=[Served(at, str(post_id)) for at, post_id in served],
    )


def _position(position: Any) -> Position:
    bits = int(position["actions"])
    return Position(
        at=int(position["at"]),
        post_id=str(position["post_id"]),
        author_id=str(position["author_id"]),
        actions=[name for index, name in enumerate(ACTIONS) if bits >> index & 1],
        dwell_ms=int(position["dwell_ms"]),
        surface=int(position["surface"]),
    )


def _forms(ids: NDArray[Any], limit: int) -> list[str]:
    return [str(each) for each in ids[:limit].tolist()]


def view(document: UserDocument) -> Group:
    """What is known of a user, on a terminal."""
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


def _history_table(history: list[Position]) -> Table:
    table = Table(title="history, newest first", title_justify="left")
    for column in ("at", "post", "author", "actions"):
        table.add_column(column)
    table.add_column("dwell", justify="right")
    for each in history:
        actions = ", ".join(each.actions) or "seen, passed over"
        dwell = f"{each.dwell_ms / 1000:.1f} s" if each.dwell_ms else ""
        table.add_row(moment(each.at), each.post_id, each.author_id, actions, dwell)
    return table


def _served_table(served: list[Served]) -> Table:
    table = Table(title="served, newest first", title_justify="left")
    table.add_column("at")
    table.add_column("post")
    for each in served:
        table.add_row(moment(each.at), each.post_id)
    return table
