"""What goes wrong while workers work: drawn beforehand from a seed, and each over when it returns."""

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
"""Where nothing is compiled yet, and the machine is busy."""


class Worker:
    """A worker that can be killed and frozen, and whose Redis can be slow for it alone."""

    def __init__(self, settings: Settings, proxy: Proxy, log: Path) -> None:
        self.proxy, self._seen = proxy, 0
        self._process = Process(settings.model_copy(update={"redis": f"redis://{proxy.address}/0"}), log, "feed_worker")

    def kill(self) -> None:
        self._process.kill()

    def start(self) -> None:
        self._seen = len(self._process.output())
        self._process.start()

    def stop(self) -> None:
        """Ask it to end, and see it end well; one that has not begun would simply be gone."""
        self.wait_ready()
        self._process.terminate()
        code = self._process.wait()
        assert code == 0, f"exit code {code}: {self.output()}"

    def freeze(self) -> None:
        self._process.freeze()

    def thaw(self) -> None:
        self._process.thaw()

    def wait_ready(self) -> None:
        """Wait until it has been given partitions since its last start: one that does nothing has nothing to lose."""
        ready = eventually(
            lambda: self._process.has_ended() or "ready: " in self._process.output()[self._seen :], START_S
        )
        assert ready, self.output()
        assert not self._process.has_ended(), self.output()

    def abort(self) -> None:
        self._process.thaw()
        self._process.abort()

    def output(self) -> str:
        return self._process.output()[-4_000:]


class Fault(NamedTuple):
    """One thing that goes wrong; `worker` is the one that it happens to, if it is a worker's."""

    kind: str
    worker: int
    seconds: float


class Faults:
    """Does what a plan says to the workers and their servers."""

    def __init__(
        self, workers: Sequence[Worker], kafka: Server, redis: Server, session_s: float, pool: ThreadPoolExecutor
    ) -> None:
        self.workers = workers
        self._kafka, self._redis, self._session_s, self._pool = kafka, redis, session_s, pool

    def happen(self, faults: Sequence[Fault], meanwhile: Callable[[], None]) -> None:
        """All of some faults at once, and something else; returns when all is over."""
        for done in [self._pool.submit(self._happen, fault) for fault in faults] + [self._pool.submit(meanwhile)]:
            done.result()

    def _happen(self, fault: Fault) -> None:
        _HAPPENS[fault.kind](self, self.workers[fault.worker], fault.seconds)

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
        """For so long that its partitions go to others; it then goes on as if nothing had happened."""
        worker.wait_ready()
        worker.freeze()
        time.sleep(self._session_s + seconds)
        worker.thaw()

    def _stalled(self, worker: Worker, seconds: float) -> None:
        worker.proxy.stall()
        time.sleep(seconds)
        worker.proxy.flow()

    def _stalled_and_killed(self, worker: Worker, seconds: float) -> None:
        """What it had sent arrives when it is dead, and others have done its work."""
        worker.wait_ready()
        worker.proxy.stall()
        time.sleep(seconds)
        worker.kill()
        time.sleep(self._session_s + seconds)
        worker.proxy.flow()
        worker.start()

    def _slow(self, _worker: Worker, seconds: float) -> None:
        for worker in self.workers:
            worker.proxy.slow(seconds / 40)
        time.sleep(2 * seconds)
        for worker in self.workers:
            worker.proxy.flow()

    def _redis_restarted(self, _worker: Worker, seconds: float) -> None:
        self._redis.kill()
        time.sleep(seconds)
        self._redis.start()

    def _broker_restarted(self, _worker: Worker, seconds: float) -> None:
        self._kafka.kill()
        time.sleep(seconds)
        self._kafka.start()


_HAPPENS: Final = {
    "killed": Faults._killed,
    "restarted": Faults._restarted,
    "frozen": Faults._frozen,
    "stalled": Faults._stalled,
    "stalled and killed": Faults._stalled_and_killed,
    "slow Redis": Faults._slow,
    "Redis restarted": Faults._redis_restarted,
    "broker restarted": Faults._broker_restarted,
}


def plan(random_: random.Random, rounds: int, at_once: int) -> Iterator[list[Fault]]:
    """Rounds of faults, each kind as often as any other, and no worker hit twice at once."""
    deck: list[str] = []
    for _ in range(rounds):
        while len(deck) < at_once:
            deck = random_.sample(sorted(_HAPPENS), len(_HAPPENS)) + deck
        kinds, deck = deck[-at_once:], deck[:-at_once]
        workers = random_.sample(range(WORKERS), at_once)
        yield [Fault(kind, worker, random_.uniform(0.5, 3.0)) for kind, worker in zip(kinds, workers, strict=True)]


@contextmanager
def group_of_workers(settings: Settings, kafka: Server, redis: Server, directory: Path) -> Iterator[Faults]:
    """Three workers of one group, each behind a proxy of its own to one Redis; killed in the end.

    Where something is wrong, each says what it was doing.
    """
    workers: list[Worker] = []
    with ExitStack() as stack:
        # its threads outlast the workers that they start: Linux ends a process with the thread that it came from
        pool = stack.enter_context(ThreadPoolExecutor())
        for index in range(WORKERS):
            proxy = stack.enter_context(Proxy(redis.port))
            worker = Worker(settings, proxy, directory / f"worker-{index}.log")
            stack.callback(worker.kill)
            workers.append(worker)
            workers[0].wait_ready()  # the others find what it has compiled
        try:
            yield Faults(workers, kafka, redis, settings.session_timeout_ms / 1000, pool)
        except BaseException as error:
            for worker in workers:
                worker.abort()
            error.add_note("\n".join(worker.output() for worker in workers))
            raise
