"""What the accounts of the generated world do about what they see.

Shapes: s impressions, a acts. Times are offsets from the world's beginning in milliseconds.
"""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from phoenix.world.affinity import gate
from phoenix.world.config import WorldConfig
from phoenix.world.exposure import Exposure, Impressions
from phoenix.world.people import Accounts, Bools, Floats, Ints
from phoenix.world.posts import NEVER, Posts
from phoenix.world.social import BLOCK, FOLLOW, MUTE, Edges, Pairs, answering
from thunder_ingest.events import ACTION_INDEX, ACTIONS, NEGATIVE_ACTIONS, QUOTE, REPOST, ActionName

POSITIVE: Final[dict[ActionName, float]] = {
    "favorite": 0.30,
    "photo_expand": 0.25,
    "click": 0.20,
    "profile_click": 0.05,
    "vqv": 0.50,
    "share": 0.020,
    "share_via_dm": 0.012,
    "share_via_copy_link": 0.008,
    "quoted_click": 0.15,
    "follow_author": 0.04,
}
"""Probability under full affinity at the top of a feed; replies, reposts and quotes come with the posts that they are."""
NEGATIVE: Final[dict[ActionName, float]] = {
    "not_interested": 0.020,
    "block_author": 0.003,
    "mute_author": 0.006,
    "report": 0.004,
}
"""Probability under no affinity at all, for the poorest post."""
REPORTED_SPAM: Final = 0.1
ATTENTION: Final = 0.3  # a place is looked at with probability (1 + position)^-ATTENTION
DWELL_MS: Final = 8_000  # from then on it counts as having dwelled
NOTED_DWELL_MS: Final = 3_000  # shorter ones are not reported
VIDEO_MS: Final = 10_000  # a shorter video is never a quality view
FAVORITES_UNDONE: Final = 0.04
FOLLOWS_UNDONE: Final = 0.05
EVENTS_PER_IMPRESSION: Final = 1.9  # about
ANSWER_ACTIONS: Final = np.array([-1, ACTION_INDEX["reply"], ACTION_INDEX["repost"], ACTION_INDEX["quote"]])
"""The action that goes with a post, by its kind."""

_EDGE_OF: Final = {"follow_author": FOLLOW, "block_author": BLOCK, "mute_author": MUTE}


@dataclass(frozen=True, slots=True)
class Acts:
    """Columns over acts."""

    impression: Ints  # [a] row of Impressions
    action: Ints  # [a] index of ACTIONS
    at: Ints  # [a]
    undone: Ints  # [a] or NEVER

    def take(self, chosen: Bools | Ints) -> Self:
        """Those acts alone."""
        return type(self)(*(getattr(self, name)[chosen] for name in self.__slots__))

    def __add__(self, other: "Acts") -> "Acts":
        return Acts(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in self.__slots__))


def draw_activity(
    rng: np.random.Generator, config: WorldConfig, accounts: Accounts, posts: Posts, edges: Edges, exposure: Exposure
) -> tuple[Impressions, Acts, Edges]:
    """What is seen, what is done about it, and all edges, those brought about on the way among them."""
    answers = np.flatnonzero(posts.parent >= 0)
    budget = max(0, config.engagements - 2 * len(answers))
    shown = exposure.draw(rng, int(budget / EVENTS_PER_IMPRESSION * 1.5))
    done = _draw_actions(rng, accounts, posts, edges, shown)
    affordable = (1 + done.sum(axis=1)).cumsum() <= budget
    shown, done = shown.take(affordable), done[affordable]
    new = _edges_of(rng, config, posts, shown, done)
    visible = shown.at < _hidden(posts, edges + new, len(accounts), shown)
    shown, done = shown.take(visible), done[visible]
    new = _still_there(new, shown, posts, len(accounts))
    acts = _acts(rng, config, shown, done, Pairs.of(new.take(new.kind == FOLLOW), len(accounts)), posts)
    answered = _answered(rng, posts, answers)
    acts += Acts(
        len(shown) + np.arange(len(answers)),
        ANSWER_ACTIONS[posts.kind[answers]],
        posts.created[answers],
        np.where(posts.kind[answers] == REPOST, posts.deleted[answers], NEVER),
    )
    return _joined(shown, answered), acts, edges + new
