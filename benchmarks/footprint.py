"""Memory of users in Redis, and the time to read a user.

`python -m benchmarks.footprint [--users N] [--positions N] [--sample N] [--reads N] [--own-server]`. It starts an
embedded Valkey. With `--own-server` it uses the configured Redis and DELETES all its keys. It writes users as in
service: each event in its own batch through `UserStates`, so that a user has a joined tail and later tails. Ids are
hashes, which do not compress. It measures the growth of `used_memory` per user and, for small numbers of users,
`MEMORY USAGE` of each.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import redis
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.report import Measure, print_report, quantiles
from infra.ports.settings import load
from infra.stack.embedded import EmbeddedRedis
from infra.terminal.progress import Advance, ProgressReport
from thunder_ingest.events import ACTIONS, IMPRESSION
from thunder_ingest.events.redis_keys import user_key
from thunder_ingest.users.entries import EDGE, HISTORY, UserUpdate
from thunder_ingest.users.redis_form import UserStates
from thunder_ingest.users.state import StateLimits

BEGIN_MS = 1_750_000_000_000
POSITIONS_A_SESSION = 20
SECONDS_A_POSITION = 8
HOURS_BETWEEN_SESSIONS = 9
ACTED_ON = 0.3  # share of the shown posts
AUTHORS = 500  # per user
AT_ONCE = 1_000  # users written together
BATCH = 16  # users per read, like a worker under load


class CountingConnection(redis.Connection):
    """A connection that counts its sends."""

    sent = 0

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Send and count."""
        CountingConnection.sent += 1
        super().send_packed_command(command, check_health)  # type: ignore[no-untyped-call]  # redis-py's


class Lives(NamedTuple):
    """The entries of users, one user after another, each oldest first."""

    entries: NDArray[Any]  # [n] of HISTORY
    starts: NDArray[np.int64]  # [users + 1]


def lives(positions: NDArray[np.int64], random: np.random.Generator) -> Lives:
    """Users with a given number of impressions each, in sessions, and actions on some of them."""
    shown = int(positions.sum())
    acted_on = random.random(shown) < ACTED_ON
    gaps_ms = random.exponential(SECONDS_A_POSITION * 1_000, shown).astype(np.int64) + 500
    gaps_ms[::POSITIONS_A_SESSION] += int(HOURS_BETWEEN_SESSIONS * 3_600_000)
    pools = random.integers(1, 2**63 - 1, (16, AUTHORS))
    entries = np.zeros(shown, HISTORY)
    entries["at"] = BEGIN_MS + np.cumsum(gaps_ms) % (30 * 86_400_000)
    entries["post_id"] = random.integers(1, 2**63 - 1, shown)
    entries["author_id"] = pools[
        np.repeat(np.arange(len(positions)) % 16, positions), random.zipf(1.3, shown) % AUTHORS
    ]
    entries["action"], entries["surface"] = IMPRESSION, 3
    entries = np.repeat(entries, 1 + acted_on)
    actions = np.flatnonzero(np.diff(entries["post_id"], prepend=0) == 0)
    entries["at"][actions] += random.integers(300, 5_000, len(actions))
    entries["action"][actions] = random.integers(0, len(ACTIONS), len(actions))
    dwelt = actions[entries["action"][actions] == len(ACTIONS) - 1]
    entries["dwell_ms"][dwelt] = random.integers(1_000, 60_000, len(dwelt))
    of_users = np.add.reduceat(1 + acted_on, np.cumsum(positions) - positions)
    return Lives(entries, np.concatenate([[0], np.cumsum(of_users)]))


def live(users: UserStates, names: Sequence[str], lived: Lives) -> None:
    """Write all events, in batches with one event per user."""
    rows, size = lived.entries.tobytes(), HISTORY.itemsize
    starts, ends = lived.starts[:-1].tolist(), lived.starts[1:].tolist()
    for step in range(max(end - start for start, end in zip(starts, ends, strict=True))):
        updates = [
            UserUpdate(name, "history", rows[(start + step) * size : (start + step + 1) * size])
            for name, start, end in zip(names, starts, ends, strict=True)
            if start + step < end
        ]
        users.append(updates, f"e0-{step * AT_ONCE}-{step * AT_ONCE + len(updates) - 1}")


def populate(client: Any, names: Sequence[str], positions: int, seed: int, advance: Advance) -> float:
    """Write users with a given (for many users: average) number of positions; returns the memory per user."""
    users, random, before = UserStates(client), np.random.default_rng(seed), _used_bytes(client)
    for first in range(0, len(names), AT_ONCE):
        some = names[first : first + AT_ONCE]
        counts = np.full(len(some), positions)
        if len(names) > AT_ONCE:
            counts = random.geometric(1 / positions, len(some))
        live(users, some, lives(counts, random))
        advance(first + len(some), len(names))
    return (_used_bytes(client) - before) / len(names)


def fill(client: Any, name: str) -> None:
    """A user at all limits: follows, seen posts and history."""
    limits, random = StateLimits(), np.random.default_rng(3)
    users, seen = UserStates(client), limits.seen_before.posts * limits.seen_before.generations + limits.seen
    edges = np.zeros(limits.following, EDGE)
    edges["target_id"], edges["at"] = random.integers(1, 2**63 - 1, (2, limits.following))
    edges["at"] = BEGIN_MS + edges["at"] % (10**11)
    entries = lives(np.array([seen + limits.positions]), random).entries
    entries["at"] = np.sort(entries["at"])
    for kind, all_ in (("following", edges), ("history", entries)):
        for first in range(0, len(all_), 10):
            updates = [UserUpdate(name, kind, each.tobytes()) for each in all_[first : first + 10]]
            users.append(updates, f"e0-{first}-{first + 9}")


def _used_bytes(client: Any) -> int:
    return int(client.info("memory")["used_memory"])


# --- reading --------------------------------------------------------------------------------------------------------


class Reading(NamedTuple):
    """Wall and CPU time of reads in µs, and the sends per read."""

    wall: dict[str, float]
    cpu: dict[str, float]
    round_trips: float


def reading(client: Any, names: Sequence[str], times: int, together: int = 1) -> Reading:
    """Repeat reads of a batch of users."""
    users, wall, cpu = UserStates(client), list[float](), list[float]()
    chosen = np.random.default_rng(13).integers(0, len(names), (times, together)).tolist()
    users.read([names[0]])
    CountingConnection.sent = 0
    for indexes in chosen:
        batch = [names[index] for index in indexes]
        begin, cpu_begin = time.perf_counter(), time.thread_time()
        users.read(batch)
        wall.append((time.perf_counter() - begin) * 1e6)
        cpu.append((time.thread_time() - cpu_begin) * 1e6)
    return Reading(quantiles(wall), quantiles(cpu), CountingConnection.sent / times)


def hydrations(name: str, found: Reading) -> list[Measure]:
    """The measures of reads."""
    p50, p99 = found.wall["p50"], found.wall["p99"]
    return [
        Measure(f"hydrate_{name}_p50", p50, "us", "lower", None, found.wall),
        Measure(f"hydrate_{name}_p99", p99, "us", "lower", None, found.wall),
        Measure(f"hydrate_{name}_cpu_p50", found.cpu["p50"], "us", "lower", None, found.cpu),
        Measure(f"round_trips_{name}", found.round_trips, "", "lower", 1.0),
    ]


# --- the benchmark --------------------------------------------------------------------------------------------------


@contextmanager
def server(own: bool) -> Iterator[Any]:
    """A counting client of an empty Redis."""
    with tempfile.TemporaryDirectory() as directory:
        if own:
            with _client(load().redis) as client:
                yield client
            return
        with EmbeddedRedis(Path(directory)) as embedded, _client(embedded.address) as client:
            yield client


def _client(address: str) -> Any:
    return redis.Redis.from_url(address, connection_class=CountingConnection)


def measures(arguments: argparse.Namespace, client: Any, report: ProgressReport) -> list[Measure]:
    """All measures."""
    found = list[Measure]()
    for positions in (128, 1_024):
        client.flushall()
        names = [f"{positions}-{number}" for number in range(arguments.sample)]
        with report.step(f"{arguments.sample:,} users of {positions:,} positions") as advance:
            grown = populate(client, names, positions, positions, advance)
        usage = quantiles([float(client.memory_usage(user_key(name), samples=0)) for name in names])
        spread = usage | {"used_memory": round(grown)}
        found.append(Measure(f"user_{positions}_bytes", round(grown), "bytes", "lower", None, spread))
        with report.step(f"users of {positions:,} positions are read"):
            read = reading(client, names, arguments.reads)
        found += hydrations(f"user_{positions}", read)
    client.flushall()
    with report.step("a user who has everything"):
        fill(client, "everything")
    found.append(
        Measure("full_user_bytes", float(client.memory_usage(user_key("everything"), samples=0)), "bytes", "lower")
    )
    found += hydrations("full_user", reading(client, ["everything"], arguments.reads))
    client.flushall()
    names = [str(number) for number in range(1, arguments.users + 1)]
    with report.step(f"{arguments.users:,} users of about {arguments.positions} positions") as advance:
        grown = populate(client, names, arguments.positions, 5, advance)
    found.append(Measure("typical_user_bytes", round(grown), "bytes", "lower"))
    for name, size in (("typical_user", 1), (f"typical_{BATCH}_users", BATCH)):
        with report.step(f"{size} of {arguments.users:,} users are read at a time"):
            read = reading(client, names, arguments.reads, size)
        found += hydrations(name, read)
    return found


def main(options: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000_000, help="Set the number of typical users")
    parser.add_argument("--positions", type=int, default=32, help="Set the average positions of a typical user")
    parser.add_argument("--sample", type=int, default=200, help="Set the users of 128 and of 1,024 positions")
    parser.add_argument("--reads", type=int, default=2_000, help="Set the number of reads")
    parser.add_argument("--own-server", action="store_true", help="Use the configured Redis and delete all its keys")
    arguments = parser.parse_args(options)
    with server(arguments.own_server) as client, ProgressReport(Console(stderr=True)) as report:
        found = measures(arguments, client, report)
    print_report("footprint", vars(arguments), found)


if __name__ == "__main__":
    main()
