"""The cost of `foryou up`: time until ready on kept data, time to stop, memory and idle CPU of each process.

`python -m benchmarks.up [--starts N] [--idle-seconds S]`. A first start fills the compile caches and is not measured.
Each further start continues from the data of the one before. Memory is PSS and RSS: PSS divides a shared page among
the processes that share it, and the sum of RSS counts it for each of them.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import psutil

from benchmarks.report import Measure, print_report
from infra.ports.settings import load
from infra.stack.stack import Stack

READY_GOAL_S = 8.0
IDLE_GOAL_CORES = 0.2
RSS_GOAL_MIB = 1_229.0  # 1.2 GiB
MIB = 1 << 20


class Start(NamedTuple):
    """One start and stop of the system."""

    ready_s: float
    ready_cpu_s: float
    stop_s: float


class Process(NamedTuple):
    """One idle process."""

    name: str
    rss_mib: float
    pss_mib: float
    cores: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the report."""
    options = parsed(arguments)
    with TemporaryDirectory() as directory:
        path = Path(directory)
        sys.stderr.write("fill the compile caches\n")
        started(path)
        starts, processes = [], list[Process]()
        for number in range(1, options.starts + 1):
            sys.stderr.write(f"start {number} of {options.starts}\n")
            idle_s = options.idle_seconds if number == options.starts else 0.0
            start, processes = started(path, idle_s)
            starts.append(start)
    print_report(
        "up", vars(options) | {"processes": [each._asdict() for each in processes]}, measures(starts, processes)
    )


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description="Measure the start and the idle cost of `foryou up`.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--starts", type=int, default=5, help="Measured starts.")
    parser.add_argument("--idle-seconds", type=float, default=60.0, help="Idle time of the last start, in seconds.")
    return parser.parse_args(arguments)


def started(directory: Path, idle_s: float = 0.0) -> tuple[Start, list[Process]]:
    """Start the system, wait until it is ready, measure it while it is idle, stop it."""
    began, reaped_s = time.perf_counter(), ended_cpu_s()
    with Stack(load(), directory, is_kept=True) as stack:
        stack.wait_ready()
        ready_s = time.perf_counter() - began
        ready_cpu_s = sum(map(cpu_s, children())) + ended_cpu_s() - reaped_s
        processes = idle(idle_s, {pid: name for name, pid in stack.pids().items()}) if idle_s else []
        stopped = time.perf_counter()
    return Start(ready_s, ready_cpu_s, time.perf_counter() - stopped), processes


def children() -> list[psutil.Process]:
    """The processes of the system; this process stands for `foryou up` itself."""
    found: list[psutil.Process] = psutil.Process().children(recursive=True)
    return found


def cpu_s(process: psutil.Process) -> float:
    """The CPU seconds that a process has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


def ended_cpu_s() -> float:
    """The CPU seconds of children that have ended, such as the fork server."""
    times = os.times()
    return times.children_user + times.children_system


def idle(seconds: float, names: Mapping[int, str]) -> list[Process]:
    """Memory and CPU of each process while the system is idle; `names` are those of forked processes."""
    running = children()
    before = list(map(cpu_s, running))
    time.sleep(seconds)
    return [
        Process(
            names.get(process.pid) or name_of(process),
            round(process.memory_info().rss / MIB, 1),
            round(process.memory_full_info().pss / MIB, 1),
            round((cpu_s(process) - since) / seconds, 3),
        )
        for process, since in zip(running, before, strict=True)
    ]


def name_of(process: psutil.Process) -> str:
    """The module or the program that a process runs."""
    command = process.cmdline()
    return command[command.index("-m") + 1] if "-m" in command else Path(command[0]).name


def measures(starts: Sequence[Start], processes: Sequence[Process]) -> list[Measure]:
    """The figures of the starts, and the sums over the idle processes."""

    def over_starts(name: str, values: list[float], goal: float | None = None) -> Measure:
        spread = {"least": round(min(values), 2), "most": round(max(values), 2)}
        return Measure(name, round(statistics.median(values), 2), "s", "lower", goal, spread)

    found = [
        over_starts("ready_seconds", [start.ready_s for start in starts], READY_GOAL_S),
        over_starts("ready_cpu_seconds", [start.ready_cpu_s for start in starts]),
        over_starts("stop_seconds", [start.stop_s for start in starts]),
    ]
    sums = (
        ("idle_rss", sum(each.rss_mib for each in processes), "MiB", RSS_GOAL_MIB),
        ("idle_pss", sum(each.pss_mib for each in processes), "MiB", None),
        ("idle_cores", sum(each.cores for each in processes), "cores", IDLE_GOAL_CORES),
    )
    return found + [Measure(name, round(value, 3), unit, "lower", goal) for name, value, unit, goal in sums]


if __name__ == "__main__":
    main()
