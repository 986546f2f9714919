"""The app's side: publish events, ask for feeds and read them, with threads or with asyncio."""

from feed_worker.client.answer_lookup import FeedTimeout, Fresh, NoFeed
from feed_worker.client.async_client import AsyncClient
from feed_worker.client.client import Client
from feed_worker.client.outbox import Undelivered

__all__ = ["AsyncClient", "Client", "FeedTimeout", "Fresh", "NoFeed", "Undelivered"]
