"""`foryou demo`: the whole system on this machine, a generated world and the feeds of a few viewers."""

import time
from collections import Counter
from typing import NamedTuple

from rich.console import Console

from feed_worker.client import Client
from feed_worker.documents.feed import Feed
from infra.ops.explain import ExplainedFeed
from infra.ops.flow_lag import wait_for_flows
from infra.ports.clock import now_ms
from infra.ports.kafka_admin import Offsets
from infra.ports.settings import Settings
from infra.stack.stack import Stack, scratch_directory
from infra.terminal.explanation import view
from infra.terminal.feeds import feed_table
from infra.terminal.progress import ProgressReport
from infra.terminal.tables import counts_table
from infra.world import World, WorldConfig, generate

VIEWERS = 4
NEWCOMER = 9_000_000_000
FEED_SIZE = 10
EXPLAINED_ITEMS = 5
FEED_TIMEOUT_S = 30.0
ADVANCE_EVERY = 1_000


class TimedFeed(NamedTuple):
    """A feed, and the time from the publication of the request until the feed was read from Redis."""

    feed: Feed
    took_ms: float


def run(settings: Settings, out: Console, err: Console) -> None:
    """Run the demo; tables go to `out`, progress to `err`. Raises the errors of `Stack` and `Client`."""
    began = time.monotonic()
    with (
        scratch_directory() as directory,
        ProgressReport(err) as report,
        Stack(settings, directory, print_line=report.print_line) as stack,
    ):
        with report.step("generate a world"):
            world = generate(WorldConfig(), until_ms=now_ms())
        with Client(stack.settings) as client:
            delivered = _publish(world, client, report)
            with report.step("load the models"):
                stack.wait_ready()
            wait_for_flows(stack.settings, delivered, report, stack.check)
            took_ms = [_show(client, world, viewer, out) for viewer in _viewers(world)]
            _explain(client, _viewers(world)[0], out)
        with report.step("stop"):
            stack.stop()
    out.print(counts_table("summary", _summary(world, delivered, took_ms, time.monotonic() - began)))


def _publish(world: World, client: Client, report: ProgressReport) -> Offsets:
    total = len(world.posts) + len(world.engagements) + len(world.graph)
    with report.step(f"publish {total:,} events to Kafka") as advance:
        for done, event in enumerate(world.events()):
            client.publish(event)
            if done % ADVANCE_EVERY == 0:
                advance(done, total)
        return client.flush()


def _viewers(world: World) -> list[int]:
    """The most active viewers, and one without any history."""
    active = Counter(event.user_id for event in world.engagements)
    return [int(user) for user, _ in active.most_common(VIEWERS)] + [NEWCOMER]


def _request(client: Client, viewer: int) -> TimedFeed:
    began = time.perf_counter()
    request = client.request_feed(viewer, size=FEED_SIZE, explain=True)
    feed = client.wait(viewer, request, FEED_TIMEOUT_S)
    return TimedFeed(feed, 1000 * (time.perf_counter() - began))


def _show(client: Client, world: World, viewer: int, out: Console) -> float:
    feed, took_ms = _request(client, viewer)
    out.print(
        feed_table(
            feed,
            f"{_described(world, viewer)}: {feed.status}, {took_ms:.0f} ms",
            text_of=lambda post: world.text(int(post)),
            name_of=lambda author: world.name(int(author)),
        )
    )
    return took_ms


def _described(world: World, viewer: int) -> str:
    if viewer == NEWCOMER:
        return f"{viewer}, a viewer without any history"
    return f"{world.name(viewer)} ({viewer}), into {', '.join(world.interests(viewer))}"


def _explain(client: Client, viewer: int, out: Console) -> None:
    explanation = client.explain(viewer)
    if explanation is not None:
        out.print(view(ExplainedFeed(explanation, client.feed(viewer)), EXPLAINED_ITEMS))


def _summary(world: World, delivered: Offsets, took_ms: list[float], seconds: float) -> dict[str, int | str]:
    return {
        "posts, deletions, labels": len(world.posts),
        "impressions, engagements": len(world.engagements),
        "follows, blocks, mutes …": len(world.graph),
        "messages delivered by Kafka": sum(delivered.values()),
        "feeds, ms each": ", ".join(f"{ms:.0f}" for ms in took_ms),
        "seconds in all": f"{seconds:.1f}",
    }
