"""Faults of workers and servers: a random plan from a seed, and their injection."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from infra.ports.settings import Settings
from tests.e2e.conftest import eventually
from tests.e2e.containers import Server
from tests.e2e.processes import Process
from tests.e2e.proxy import Proxy

WORKERS: Final = 3
START_S: Final = 600.0
"""Enough for a busy machine with an empty compile cache."""


class Worker:
    """A worker that can be killed and frozen, with its own proxy to Redis."""

    def __init__(self, settings: Settings, proxy: Proxy, log: Path) -> None:
        self.proxy, self._log_start = proxy, 0
        self._process = Process(settings.model_copy(update={"redis": f"redis://{proxy.address}/0"}), log, "feed_worker")

    def kill(self) -> None:
        self._process.kill()

    def start(self) -> None:
        self._log_start = len(self._process.output())
        self._process.start()

    def stop(self) -> None:
        """Stop the worker once it is ready, and assert exit code 0. A worker that is still starting would be killed."""
        self.wait_ready()
        self._process.terminate()
        code = self._process.wait()
        assert code == 0, f"exit code {code}: {self.output()}"

    def freeze(self) -> None:
        self._process.freeze()

    def thaw(self) -> None:
        self._process.thaw()

    def wait_ready(self) -> None:
        """Wait until the worker has partitions since its last start. A fault without partitions tests nothing."""
        ready = eventually(
            lambda: self._process.has_ended() or "ready: " in self._process.output()[self._log_start :], START_S
        )
        assert ready, self.output()
        assert not self._process.has_ended(), self.output()

    def abort(self) -> None:
        self._process.thaw()
        self._process.abort()

    def output(self) -> str:
        return self._process.output()[-4_000:]


class Fault(NamedTuple):
    """One fault. `worker` is the index of its worker; faults of servers ignore it."""

    kind: str
    worker: int
    seconds: float


class FaultInjector:
    """Injects the faults of a plan into the workers and their servers. A fault is over when its method returns."""

    def __init__(
        self, workers: Sequence[Worker], kafka: Server, redis: Server, session_s: float, pool: ThreadPoolExecutor
    ) -> None:
        self.workers = workers
        self._kafka, self._redis, self._session_s, self._pool = kafka, redis, session_s, pool

    def inject(self, faults: Sequence[Fault], meanwhile: Callable[[], None]) -> None:
        """Inject faults at the same time and run `meanwhile` beside them. Return when all have ended."""
        for done in [self._pool.submit(self._inject, fault) for fault in faults] + [self._pool.submit(meanwhile)]:
            done.result()

    def _inject(self, fault: Fault) -> None:
        _INJECTIONS[fault.kind](self, self.workers[fault.worker], fault.seconds)

    def _killed(self, worker: Worker, seconds: float) -> None:
        worker.wait_ready()
        time.sleep(seconds)
        worker.kill()
        worker.start()

    def _restarted(self, worker: Worker, seconds: float) -> None:
        time.sleep(seconds)
        worker.stop()
        worker.start()

    def _frozen(self, worker: Worker, seconds: float) -> None:
        """Freeze the worker until its session has expired and others have its partitions. Then let it continue."""
        worker.wait_ready()
        worker.freeze()
        time.sleep(self._session_s + seconds)
        worker.thaw()

    def _stalled(self, worker: Worker, seconds: float) -> None:
        worker.proxy.stall()
        time.sleep(seconds)
        worker.proxy.resume()

    def _stalled_and_killed(self, worker: Worker, seconds: float) -> None:
        """Delay the writes of the worker until it is dead and others have answered its requests."""
        worker.wait_ready()
        worker.proxy.stall()
        time.sleep(seconds)
        worker.kill()
        time.sleep(self._session_s + seconds)
        worker.proxy.resume()
        worker.start()

    def _slow(self, _worker: Worker, seconds: float) -> None:
        for worker in self.workers:
            worker.proxy.slow(seconds / 40)
        time.sleep(2 * seconds)
        for worker in self.workers:
            worker.proxy.resume()

    def _redis_restarted(self, _worker: Worker, seconds: float) -> None:
        self._redis.kill()
        time.sleep(seconds)
        self._redis.start()

    def _broker_restarted(self, _worker: Worker, seconds: float) -> None:
        self._kafka.kill()
        time.sleep(seconds)
        self._kafka.start()


_INJECTIONS: Final = {
    "killed": FaultInjector._killed,
    "restarted": FaultInjector._restarted,
    "frozen": FaultInjector._frozen,
    "stalled": FaultInjector._stalled,
    "stalled and killed": FaultInjector._stalled_and_killed,
    "slow Redis": FaultInjector._slow,
    "Redis restarted": FaultInjector._redis_restarted,
    "broker restarted": FaultInjector._broker_restarted,
}


def plan(random_: random.Random, rounds: int, at_once: int) -> Iterator[list[Fault]]:
    """Yield rounds of faults. Each kind is equally frequent, and a round has at most one fault for each worker."""
    deck: list[str] = []
    for _ in range(rounds):
        while len(deck) < at_once:
            deck = random_.sample(sorted(_INJECTIONS), len(_INJECTIONS)) + deck
        kinds, deck = deck[-at_once:], deck[:-at_once]
        workers = random_.sample(range(WORKERS), at_once)
        yield [Fault(kind, worker, random_.uniform(0.5, 3.0)) for kind, worker in zip(kinds, workers, strict=True)]


@contextmanager
def group_of_workers(settings: Settings, kafka: Server, redis: Server, directory: Path) -> Iterator[FaultInjector]:
    """Three workers of one consumer group, each with its own proxy to one Redis. They are killed at the end.

    After an error, their logs with the stacks of all threads become a note of the error.
    """
    workers: list[Worker] = []
    with ExitStack() as stack:
        # the threads of the pool must outlive the workers: Linux ends a child when the thread that started it ends
        pool = stack.enter_context(ThreadPoolExecutor())
        for index in range(WORKERS):
            proxy = stack.enter_context(Proxy(redis.port))
            worker = Worker(settings, proxy, directory / f"worker-{index}.log")
            stack.callback(worker.kill)
            workers.append(worker)
            workers[0].wait_ready()  # it fills the compile cache for the others
        try:
            yield FaultInjector(workers, kafka, redis, settings.session_timeout_ms / 1000, pool)
        except BaseException as error:
            for worker in workers:
                worker.abort()
            error.add_note("\n".join(worker.output() for worker in workers))
            raise
