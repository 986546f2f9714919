"""A generated world: people with tastes, what they write, and what they do about what they see.

It exists to run the whole system without anybody's data: every kind of event that an app can publish occurs, in an
order that could have happened: nobody engages before a post exists, sees an account after blocking it, or reads what is
for subscribers without subscribing. The taste behind it is known (`World.affinity`), so that a ranking can be held
against the best one possible.

The shape (topics, gamma-weighted interests, quality of authors and posts, a steep gate on affinity) is that of the
published generator; the graph, answers, negatives, sessions and drifting tastes are what that one lacks.
"""

from infra.world.config import WorldConfig
from infra.world.world import World, generate

__all__ = ["World", "WorldConfig", "generate"]
