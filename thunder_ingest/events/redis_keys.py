"""The keys and channels of Redis, one set for each user.

Each takes the published form of the user id, and holds it as the hash tag: a Redis Cluster keeps a user on one node.
`thunder_ingest.users.register` explains the keys that no user owns.
"""

from typing import Final

MARK_KEY: Final = "users:{register}"
"""The string with the id of the last build of the users' state."""

BUILD_KEY: Final = f"{MARK_KEY}:build"
"""The hash of the build that is open."""


def known_users_key(number: int) -> str:
    """A set of the ids of users with state."""
    return f"users:known:{number}"


def position_key(tag: str, part: str) -> str:
    """The string with the position up to which Redis has the writes of a partition; the tag selects the node."""
    return f"users:{{{tag}}}:written:{part}"


def user_key(user: str) -> str:
    """The hash of a user's state."""
    return f"user:{{{user}}}"


def feed_key(user: str) -> str:
    """The string with a user's feed."""
    return f"feed:{{{user}}}"


def explain_key(user: str) -> str:
    """The string with the explanation of a user's feed."""
    return f"explain:{{{user}}}"


def answered_key(user: str) -> str:
    """The hash of the answers to a user's requests of the last hour: packed `FeedServed` by request id."""
    return f"answered:{{{user}}}"


def answered_before_key(user: str) -> str:
    """The hash that takes over the answers of a full `answered_key`."""
    return f"answered-before:{{{user}}}"


def replaced_key(user: str) -> str:
    """The list of a user's feeds of the last minutes that are not the newest, for the readers that requested them."""
    return f"replaced:{{{user}}}"


def preview_key(user: str, request_id: str) -> str:
    """The string with the answer to a request that leaves no other trace."""
    return f"preview:{{{user}}}:{request_id}"


def ready_channel(user: str) -> str:
    """The channel that publishes the id of each request of a user as soon as its answer is stored."""
    return f"feed-ready:{{{user}}}"
