"""Connections to Redis or Redis Cluster, pipelines, and the retry of commands during an outage."""

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeAlias, TypeVar, cast
from urllib.parse import urlsplit

import hiredis
import redis
import redis.asyncio
import redis.asyncio.cluster
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.client import PubSub
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisClusterException

from infra.ports.error_table import Reaction, redis_reaction
from infra.ports.errors import RedisRefused, RedisUnreachable, StopRequested
from infra.ports.outage import outage
from infra.ports.settings import Settings, SettingsError, redacted, redis_nodes

Client: TypeAlias = redis.Redis | RedisCluster
AsyncClient: TypeAlias = redis.asyncio.Redis | redis.asyncio.cluster.RedisCluster
Command: TypeAlias = Sequence[str | bytes | int]
T = TypeVar("T")

REDIS_ERRORS: Final = (redis.RedisError, RedisClusterException)
"""The roots of all errors of redis-py."""

SCRATCH_KEY: Final = "foryou:scratch"
"""A string in a Redis that `foryou up --fresh` starts: it is meant to lose its data."""

_RETRY_S: Final = 0.5
_RETRIES: Final = 6  # of an unknown error
_CHUNK: Final = 1_000  # commands per send: Redis executes some while the next are packed


def redis_unreachable(settings: Settings, error: Exception) -> RedisUnreachable:
    """RedisUnreachable, or RedisRefused, for an error of the client, with the address, the reason and the remedy."""
    place = redacted(settings.redis)
    if redis_reaction(error) is Reaction.WAIT:
        return RedisUnreachable(
            f"no Redis answers at {place} ({error}): start one with `foryou up`, or name yours in FORYOU_REDIS"
        )
    return RedisRefused(
        f"Redis at {place} refuses ({error}): check user, password and database in FORYOU_REDIS, FORYOU_REDIS_CLUSTER, "
        "and the rights of the user"
    )


def connect(settings: Settings, timeout_s: float = 10.0, *, is_strict: bool = False) -> Client:
    """Return a client of the Redis, or Redis Cluster, of the settings.

    Args:
        settings: the address; for a cluster one or more start nodes.
        timeout_s: for one reply, and twice the limit for a new connection.
        is_strict: True if options of the address must not change these limits.

    Raises:
        RedisUnreachable: with the address and the remedy; RedisRefused if a retry cannot help.
        SettingsError: an option of the address cannot be used.

    """
    with _usable_options(settings):
        return _connected(settings, timeout_s, is_strict=is_strict)


def _connected(settings: Settings, timeout_s: float, *, is_strict: bool) -> Client:
    timeouts: dict[str, Any] = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s / 2}
    try:
        if settings.redis_cluster:
            first, *others = redis_nodes(settings.redis)
            nodes = [ClusterNode(*_host_and_port(url)) for url in others]
            return RedisCluster(url=first, startup_nodes=nodes, **timeouts)
        client = redis.Redis.from_url(settings.redis, **timeouts)
        if is_strict:
            client.connection_pool.connection_kwargs.update(timeouts)
        try:
            client.ping()
            is_cluster = _is_cluster_node(client)
        except BaseException:
            client.close()
            raise
    except REDIS_ERRORS as error:
        raise redis_unreachable(settings, error) from None
    if is_cluster:
        client.close()
        raise RedisRefused(f"{redacted(settings.redis)} is a node of a Redis Cluster: set FORYOU_REDIS_CLUSTER=true")
    return client


@contextmanager
def _usable_options(settings: Settings) -> Iterator[None]:
    """A block that connects: redis-py takes options of the address, such as `socket_timeout`, without a check."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        if not urlsplit(settings.redis).query:
            raise
        raise SettingsError(f"FORYOU_REDIS has an option, after `?`, that cannot be used: {error}") from None


def _is_cluster_node(client: redis.Redis) -> bool:
    try:
        return bool(client.info("cluster").get("cluster_enabled"))
    except redis.ResponseError:  # a user may lack the right; then each command on a key of another node fails
        return False


async def connect_async(settings: Settings) -> AsyncClient:
    """Return a client for asyncio; like `connect`."""
    with _usable_options(settings):
        return await _connected_async(settings)


async def _connected_async(settings: Settings) -> AsyncClient:
    timeouts: dict[str, Any] = {"socket_timeout": 10.0, "socket_connect_timeout": 5.0}
    client: AsyncClient
    if settings.redis_cluster:
        first, *others = redis_nodes(settings.redis)
        nodes = [redis.asyncio.cluster.ClusterNode(*_host_and_port(url)) for url in others]
        client = redis.asyncio.cluster.RedisCluster.from_url(first, startup_nodes=nodes, **timeouts)
    else:
        client = redis.asyncio.Redis.from_url(settings.redis, **timeouts)
    try:
        await (client.initialize() if isinstance(client, redis.asyncio.cluster.RedisCluster) else client.ping())
    except REDIS_ERRORS as error:
        await client.aclose()
        raise redis_unreachable(settings, error) from None
    return client


def node_url(settings: Settings, client: Client | AsyncClient) -> str:
    """The URL of the Redis, or of a random primary of a cluster: each node gets the messages that others publish."""
    first, *_ = redis_nodes(settings.redis)
    if isinstance(client, redis.Redis | redis.asyncio.Redis):
        return first
    nodes = client.get_primaries()
    if not nodes:
        return random.choice(redis_nodes(settings.redis))
    node = random.choice(nodes)
    host = f"[{node.host}]" if ":" in str(node.host) else node.host
    parts = urlsplit(first)
    return parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@{host}:{node.port}").geturl()


def subscriber_client(url: str) -> redis.asyncio.Redis:
    """Return a client for subscriptions: its reads have no timeout."""
    return redis.asyncio.Redis.from_url(
        url,
        socket_connect_timeout=5.0,
        retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), retries=5),
        retry_on_error=[redis.ConnectionError],
    )


def renew(client: Client) -> None:
    """Make the next command find the present primary: by new connections, and a new map of the slots of a cluster."""
    if isinstance(client, redis.Redis):
        client.connection_pool.disconnect(inuse_connections=False)
        return
    manager = client.nodes_manager
    # all nodes that the cluster has listed may be gone, while those of the settings are back under their names
    manager.startup_nodes = {node.name: node for node in client.startup_nodes} | manager.startup_nodes
    with suppress(*REDIS_ERRORS):  # the next command meets the same error
        manager.initialize()


# the types of hiredis allow only commands of one word
_pack_words: Final = cast(Callable[[tuple[str | bytes | int, ...]], bytes], hiredis.pack_command)


def pipelined(client: Client, commands: Sequence[Command]) -> list[Any]:
    """The replies to commands that are sent together; a cluster client sends each to the node of its key.

    A reply that concerns its key alone (`Reaction.SKIP`, such as WRONGTYPE) is in the list as its error.

    Raises:
        redis.RedisError, RedisClusterException: any other error; some commands may be executed.

    """
    if not commands:
        return []
    if isinstance(client, RedisCluster):
        with client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            return checked(pipe.execute(raise_on_error=False))
    return checked(_on_one_connection(client, commands))


def checked(replies: list[Any]) -> list[Any]:
    """The replies, with the errors of single keys among them; raises any other error."""
    for reply in replies:
        if isinstance(reply, Exception) and redis_reaction(reply) is not Reaction.SKIP:
            raise reply
    return replies


def _on_one_connection(client: redis.Redis, commands: Sequence[Command]) -> list[Any]:
    """Send commands and read the replies, at a fifth of the cost of a redis-py pipeline."""
    connection = client.connection_pool.get_connection()
    try:
        for start in range(0, len(commands), _CHUNK):
            packed = b"".join([_pack_words(tuple(command)) for command in commands[start : start + _CHUNK]])
            connection.send_packed_command([packed], check_health=False)
        return [_reply(connection) for _ in commands]
    except BaseException:
        connection.disconnect()  # unread replies may follow
        raise
    finally:
        client.connection_pool.release(connection)


def _reply(connection: Any) -> Any:  # a connection's reads are not typed by redis-py
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        return error


def _host_and_port(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "localhost", parts.port or 6379


def subscription(client: Client) -> PubSub:
    """Return a subscription, which the caller closes; its first message is the confirmation."""
    pubsub: PubSub = cast(Any, client).pubsub()  # not typed by redis-py
    return pubsub


class RedisRetry:
    """Repeats a command as the table of errors demands; logs the start and the end of an outage once. For any thread.

    Args:
        settings: address of Redis.
        stopping: ends the wait.
        client: the client of the commands; it gets new connections after an error that one of them may cause.

    """

    def __init__(self, settings: Settings, stopping: threading.Event, client: Client | None = None) -> None:
        self._settings, self._stopping, self._client = settings, stopping, client
        self._outage = outage("Redis", redacted(settings.redis))

    def connect(self) -> Client:
        """A client, connected as soon as Redis is available; raises like `run`."""
        self._client = self.run(lambda: connect(self._settings))
        return self._client

    def run(self, command: Callable[[], T]) -> T:
        """Run an idempotent command until it succeeds; return its result.

        Raises:
            StopRequested: `stopping` was set during an outage.
            RedisRefused: a retry would not help, for example because of a wrong password.
            redis.ResponseError: a key holds a value of another type.

        """
        call = object()
        try:
            return self._run(command, call)
        finally:
            self._outage.leave(call)

    def _run(self, command: Callable[[], T], call: object) -> T:
        unknown = 0
        while True:
            try:
                result = command()
            except (*REDIS_ERRORS, RedisUnreachable) as error:
                reaction = redis_reaction(error)
                if reaction is Reaction.SKIP:
                    raise
                unknown += reaction is Reaction.RETRY
                if reaction is Reaction.END or unknown > _RETRIES:
                    raise self._refused(error) from error
                self._report(error, call)
                if self._stopping.wait(_RETRY_S):
                    raise StopRequested("stopped while Redis was unreachable") from error
            else:
                self._outage.ends(call)
                return result

    def attempt(self, command: Callable[[], object]) -> bool:
        """Run a command once; False during an outage, which it also detects and ends. Raises RedisRefused."""
        try:
            command()
        except REDIS_ERRORS as error:
            reaction = redis_reaction(error)
            if reaction is Reaction.SKIP:
                raise
            if reaction is Reaction.END:
                raise self._refused(error) from error
            self._report(error, self)
            return False
        self._outage.ends(self)
        return True

    def _report(self, error: Exception, reporter: object) -> None:
        self._outage.begins(error, reporter=reporter)
        if self._client is not None:
            renew(self._client)

    def _refused(self, error: Exception) -> RedisRefused:
        refused = error if isinstance(error, RedisUnreachable) else redis_unreachable(self._settings, error)
        return refused if isinstance(refused, RedisRefused) else RedisRefused(str(refused))
