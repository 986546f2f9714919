"""Engagements and impressions as columns: read once for users' histories and for counts.

glossary of shapes: n events.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Int64

from thunder_ingest.events.actions import ACTION_INDEX, IMPRESSION, surface_code
from thunder_ingest.events.ids import id64, string_form
from thunder_ingest.events.published import Engagement, Impression


class EngagementColumns(NamedTuple):
    """A row for each engagement and impression, in the order of the events; and the other events."""

    user: Int64[np.ndarray, " n"]
    """The id of the user if it is an integer; -1 - index in `string_ids` if not."""
    post_id: Int64[np.ndarray, " n"]
    author_id: Int64[np.ndarray, " n"]
    at: Int64[np.ndarray, " n"]  # ms
    action: Int64[np.ndarray, " n"]  # ACTION_INDEX, or IMPRESSION
    dwell_ms: Int64[np.ndarray, " n"]
    undo: Int64[np.ndarray, " n"]  # 1 for an undo
    surface: Int64[np.ndarray, " n"]
    string_ids: Sequence[str]
    others: Sequence[Any]
    """Events of the social graph, in their order."""

    def account_ids(self) -> Int64[np.ndarray, " n"]:
        """The int64 id of each row's user."""
        if not self.string_ids:
            return self.user
        ids = np.array([0, *map(id64, self.string_ids)])
        return np.where(self.user > 0, self.user, ids[np.maximum(-self.user, 0)])


_COLUMNS: Final = 8


def engagement_columns(events: Iterable[Any]) -> EngagementColumns:
    """The columns of events of the topics `engagements` and `social-graph`."""
    rows: list[int] = []  # end to end
    strings, others = dict[str, int](), list[Any]()
    for event in events:
        kind = type(event)
        if kind is Impression:
            action, dwell_ms, undo = IMPRESSION, 0, False
        elif kind is Engagement:
            action, dwell_ms, undo = ACTION_INDEX[event.action], event.dwell_ms or 0, event.undo is True
        else:
            others.append(event)
            continue
        user, post_id, author_id, surface = event.user_id, event.post_id, event.author_id, event.surface
        if type(user) is not int:
            user = id64(user) if string_form(user) is None else strings.setdefault(user, -1 - len(strings))
        if type(post_id) is not int:
            post_id = id64(post_id)
        if type(author_id) is not int:
            author_id = id64(author_id)
        code = surface_code(surface) if surface else 0
        rows += (user, post_id, author_id, event.at, action, dwell_ms, undo, code)
    users, *columns = np.array(rows, np.int64).reshape(-1, _COLUMNS).T
    post_ids, author_ids, at, actions, dwells_ms, undos, surfaces = columns
    return EngagementColumns(
        users, post_ids, author_ids, at, actions, dwells_ms, undos, surfaces, list(strings), others
    )
