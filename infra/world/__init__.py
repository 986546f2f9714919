"""A generated world: accounts with preferences, their posts, impressions and engagements.

The world lets the whole system run without real data. It contains every kind of event that an app can publish, in a
consistent order: an engagement comes after its post, a viewer sees no posts of a blocked account, and posts for
subscribers reach only subscribers. The true preferences are known (`World.affinity`), so a ranking can be compared with
the optimal one.

Topics, gamma-distributed interests, quality of authors and posts, and the steep gate on affinity come from the
published generator. The graph, answers, negative feedback, sessions and drift of preferences are additions.
"""

from infra.world.config import WorldConfig
from infra.world.world import World, generate

__all__ = ["World", "WorldConfig", "generate"]
