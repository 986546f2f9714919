"""Read the stored state of a user, as feeds use it.

All ids except the user's own are int64; for an id that was published as a string this is its hash.
"""

from typing import Any

import msgspec
from numpy.typing import NDArray

from infra.ports.errors import StateUnreadable
from infra.ports.redis import connect
from infra.ports.settings import Settings
from thunder_ingest.events import ACTIONS
from thunder_ingest.events.ids import id64, published_form
from thunder_ingest.users.entries import EDGE_KINDS
from thunder_ingest.users.redis_form import UserStates
from thunder_ingest.users.state import UserState


class HistoryPosition(msgspec.Struct):
    """A user's actions on a post in one visit; without actions the post was only seen."""

    at: int
    post_id: str
    author_id: str
    actions: list[str]
    dwell_ms: int
    surface: int


class ServedPost(msgspec.Struct):
    """A post of an earlier feed."""

    at: int
    post_id: str


class UserDocument(msgspec.Struct):
    """The state of a user: the counts are complete, the lists have at most `limit` entries each."""

    user_id: str
    number: str
    is_known: bool
    """False if the state has only served posts."""
    counts: dict[str, int]
    history: list[HistoryPosition]
    """Newest first."""
    edges: dict[str, list[str]]
    """following, blocks, blocked_by, mutes, subscriptions: ids without times."""
    keywords: list[str]
    seen: list[str]
    """Ids in ascending order; older seen posts are in a Bloom filter, counted as `seen_before`."""
    served: list[ServedPost]
    """Newest first."""


def read(settings: Settings, user: str, limit: int) -> UserDocument | None:
    """The state of a user, with at most `limit` entries of each kind; None if no state exists.

    Raises:
        RedisUnreachable: with the address and the remedy.
        StateUnreadable: the stored state cannot be decoded.

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
    counts |= {"keywords": len(state.keywords), "seen": len(state.seen), "seen_before": len(state.seen_before)}
    counts |= {"rejected": len(state.rejected), "served": len(state.served_ids)}
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
        served=[ServedPost(at, str(post_id)) for at, post_id in served],
    )


def _position(position: Any) -> HistoryPosition:
    bits = int(position["actions"])
    return HistoryPosition(
        at=int(position["at"]),
        post_id=str(position["post_id"]),
        author_id=str(position["author_id"]),
        actions=[name for index, name in enumerate(ACTIONS) if bits >> index & 1],
        dwell_ms=int(position["dwell_ms"]),
        surface=int(position["surface"]),
    )


def _forms(ids: NDArray[Any], limit: int) -> list[str]:
    return [str(each) for each in ids[:limit].tolist()]
