"""`foryou demo`: the whole system on this machine, a generated world and the feeds of a few viewers."""

import time
from collections import Counter
from itertools import combinations
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
            viewers = _viewers(world)
            shown = [_show(client, world, viewer, out) for viewer in [*viewers, NEWCOMER]]
            out.print(counts_table("posts that two feeds share", _shared(world, shown[:-1])))
            _explain(client, viewers[0], out)
        with report.step("stop"):
            stack.stop()
    took_ms = [each.took_ms for each in shown]
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
    """Active viewers, the most active first; no two of them share one of their two greatest interests."""
    active = Counter(int(event.user_id) for event in world.engagements)
    chosen: list[int] = []
    for viewer, _ in active.most_common():
        first = set(world.interests(viewer)[:2])
        if len(chosen) < VIEWERS and first and all(first.isdisjoint(world.interests(each)[:2]) for each in chosen):
            chosen.append(viewer)
    return chosen


def _request(client: Client, viewer: int) -> TimedFeed:
    began = time.perf_counter()
    request = client.request_feed(viewer, size=FEED_SIZE, explain=True)
    feed = client.wait(viewer, request, FEED_TIMEOUT_S)
    return TimedFeed(feed, 1000 * (time.perf_counter() - began))


def _show(client: Client, world: World, viewer: int, out: Console) -> TimedFeed:
    feed, took_ms = timed = _request(client, viewer)
    known = [] if viewer == NEWCOMER else world.interests(viewer)
    cared_for = sum(world.topics(int(item.post_id))[0] in known for item in feed.items)
    matches = f", {cared_for} of {len(feed.items)} about an interest" if known else ""
    out.print(
        feed_table(
            feed,
            f"{_described(world, viewer)}: {feed.status}, {took_ms:.0f} ms{matches}",
            text_of=lambda post: world.text(int(post)),
            name_of=lambda author: world.name(int(author)),
            about=lambda post: ", ".join(world.topics(int(post))),
        )
    )
    return timed


def _shared(world: World, shown: list[TimedFeed]) -> dict[str, int]:
    """The number of common posts of each pair of feeds."""
    posts = {world.name(int(feed.user_id)): {item.post_id for item in feed.items} for feed, _ in shown}
    return {f"{one}, {other}": len(posts[one] & posts[other]) for one, other in combinations(posts, 2)}


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
