"""The client of an app: publish events, request feeds and read them, with threads or with asyncio.

This package needs the plain installation only, and its import loads neither NumPy nor a Kafka or Redis library.
"""

from feed_worker.client.async_client import AsyncClient
from feed_worker.client.client import Client
from feed_worker.client.errors import FeedTimeout, NoFeed, NotServable, Undelivered
from feed_worker.client.refresh import Fresh

__all__ = ["AsyncClient", "Client", "FeedTimeout", "Fresh", "NoFeed", "NotServable", "Undelivered"]
