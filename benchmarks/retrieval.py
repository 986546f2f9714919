"""Exact retrieval from a large index, with the limit by memory bandwidth and arithmetic of the machine.

`python -m benchmarks.retrieval [--posts N] [--dim D] [--k K] [--batches B ...] [--rounds N] [--large-posts N]`. The
lower bound of a search is the longer of two times: to read every fp32 component once, and to multiply it with every
query. Bandwidth and matmul peak are measured between the searches. `bound_share` is the bound divided by the time of
the search, per round, so that other load counts for both. Recall is the share of the true k best in fp64.
`kernel_speedup` compares the kernel in LLVM IR with the same loop in plain Numba.
"""

import argparse
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numba
import numpy as np
import psutil
from jaxtyping import Float32, Float64, Int64

from benchmarks.report import Measure, print_report, quantiles
from phoenix.index import int8_kernel, plain_kernel
from phoenix.index.host_index import HostIndex
from phoenix.index.int8_kernel import PANEL, TILE, Precision, empty_panels, tiles, write
from phoenix.index.retrieval_index import Mask, Traits

LOADED_AT_ONCE: Final = 50_000
MATMUL: Final = 2_048
GOAL: Final = 0.7
LANGUAGES: Final = 20
KERNEL_POSTS: Final = 65_536
KERNEL_GOAL: Final = 1.5
TIES: Final = 1e-6
"""Scores within this fp32 tolerance of the k-th best count as found."""


class Form(NamedTuple):
    """A storage form of the vectors; the goal applies to exact forms."""

    name: str
    precision: Precision
    exact: bool


FORMS: Final = (
    Form("fp32", "float32", True),
    Form("int8_rescored", "int8", True),
    Form("fp16", "float16", False),
    Form("int8", "int8", False),
)


def unit_vectors(rng: np.random.Generator, count: int, dim: int) -> Float32[np.ndarray, "n d"]:
    """Points on the sphere, uniform: the hardest case, since no group of rows can be excluded."""
    vectors = rng.standard_normal((count, dim), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def traits(ids: Int64[np.ndarray, " n"]) -> Traits:
    """Authors with ten posts each, 20 languages, a label on one post of 16, a video in one of four."""
    labels = (ids % 16 == 0).astype(np.uint64)
    return Traits(ids // 10, ids % LANGUAGES, labels, ids % 4 == 0)


def seconds(work: Callable[[], object]) -> float:
    """The seconds of a call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _cpu_seconds(work: Callable[[], object]) -> float:
    """The CPU seconds of a call that uses one thread."""
    began = time.thread_time()
    work()
    return time.thread_time() - began


@numba.njit(nogil=True)
def _sum(words: Int64[np.ndarray, " n"]) -> int:
    sum_ = 0
    for word in words:
        sum_ += word
    return sum_


@numba.njit(nogil=True)
def _in_llvm_ir(stored: Any, of_queries: Float32[np.ndarray, "tiles d 4"], out: Float32[np.ndarray, "4 64"]) -> None:
    for panel in range(len(stored)):
        for tile in range(len(of_queries)):
            int8_kernel.products(stored, panel, min(panel + 1, len(stored) - 1), of_queries, tile, out)


@numba.njit(nogil=True)
def _in_plain_numba(
    stored: Any, of_queries: Float32[np.ndarray, "tiles d 4"], out: Float32[np.ndarray, "4 64"]
) -> None:
    for panel in range(len(stored)):
        for tile in range(len(of_queries)):
            plain_kernel.products(stored, panel, panel, of_queries, tile, out)


class Machine:
    """The limits of the machine: `bytes` read once by all cores, and a square matmul by XLA."""

    def __init__(self, vectors: Float32[np.ndarray, "n d"]) -> None:
        self._bytes = vectors.nbytes
        self._parts = np.array_split(vectors.reshape(-1).view(np.int64), psutil.cpu_count() or 1)
        self._square = jnp.asarray(np.random.default_rng(0).standard_normal((MATMUL, MATMUL), dtype=np.float32))
        self._matmul = jax.jit(jnp.matmul)
        self.bytes_per_second()
        self.flops()

    def bytes_per_second(self) -> float:
        """Read bandwidth, the better of one pass by all cores and one by one core."""
        threads = [threading.Thread(target=_sum, args=(part,)) for part in self._parts]

        def read() -> None:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        return self._bytes / min(seconds(read), seconds(lambda: [_sum(part) for part in self._parts]))

    def flops(self) -> float:
        """Floating-point operations per second, products and sums."""
        taken = seconds(lambda: self._matmul(self._square, self._square).block_until_ready())
        return 2 * MATMUL**3 / taken


def load(flat_index: HostIndex, count: int, dim: int, seed: int) -> float:
    """Fill an index with posts from 1 on; returns the seconds of its own work."""
    rng, spent = np.random.default_rng(seed), 0.0
    for begin in range(0, count, LOADED_AT_ONCE):
        ids = np.arange(begin + 1, min(begin + LOADED_AT_ONCE, count) + 1)
        vectors, described = unit_vectors(rng, len(ids), dim), traits(ids)
        spent += seconds(partial(flat_index.upsert, ids, vectors, described))
    return spent


class Batch(NamedTuple):
    """Queries with their true products, column i - 1 that of post i."""

    queries: Float32[np.ndarray, "B d"]
    products: Float64[np.ndarray, "B n"]

    def recall(self, found: Int64[np.ndarray, "B k"]) -> float:
        """The share of the true k best."""
        shares = []
        for ids, products in zip(found, self.products, strict=True):
            kth = np.partition(products, len(products) - len(ids))[len(products) - len(ids)]
            shares.append(np.count_nonzero(products[np.unique(ids) - 1] >= kth - TIES) / len(ids))
        return float(np.mean(shares))


def batch_of(size: int, seed: int, vectors: Float32[np.ndarray, "n d"]) -> Batch:
    """Random queries."""
    queries = unit_vectors(np.random.default_rng(seed + size), size, vectors.shape[1])
    parts = np.array_split(vectors, 64)
    return Batch(queries, np.concatenate([queries.astype(np.float64) @ part.T for part in parts], axis=1))


def searched(
    form: Form, options: argparse.Namespace, vectors: Float32[np.ndarray, "n d"], batches: Sequence[Batch]
) -> list[Measure]:
    """Latency, share of the bound and recall per batch size, and loading speed of a form."""
    flat_index = HostIndex(options.dim, form.precision, exact=form.exact)
    loaded = load(flat_index, options.posts, options.dim, options.seed)
    machine, result = Machine(vectors), []
    for each in batches:
        queries, batch = each.queries, len(each.queries)
        sys.stderr.write(f"{form.name}: {batch} queries\n")
        unmasked = [Mask()] * batch
        found = flat_index.search(queries, options.k, unmasked)[0]
        latencies, shares = [], []
        for _ in range(options.rounds):
            bound = max(vectors.nbytes / machine.bytes_per_second(), 2 * batch * vectors.size / machine.flops())
            taken = seconds(partial(flat_index.search, queries, options.k, unmasked))
            latencies.append(taken * 1_000)
            shares.append(bound / taken)
        name, goal = f"{form.name}_{batch}", GOAL if form.exact else None
        result += [
            Measure(f"latency_ms_p50_{name}", quantiles(latencies)["p50"], "ms", "lower", None, quantiles(latencies)),
            Measure(f"bound_share_{name}", quantiles(shares)["p50"], "share", "higher", goal, quantiles(shares)),
            Measure(f"recall_{name}", each.recall(found), "share", "higher", 1.0 if form.exact else None),
        ]
    result.append(Measure(f"load_per_second_{form.name}", round(options.posts / loaded), "1/s", "higher"))
    if form.name == "int8_rescored":
        result += [*masked(flat_index, options), *while_writing(flat_index, options)]
    return result


def masked(flat_index: HostIndex, options: argparse.Namespace) -> list[Measure]:
    """One query with a mask: one language of 20, no videos, no labelled posts, none of 1,000 authors."""
    query = unit_vectors(np.random.default_rng(options.seed), 1, options.dim)
    authors = np.arange(0, options.posts // 10, max(options.posts // 10_000, 1))
    mask = Mask(languages=np.array([7]), without_authors=authors, without_labels=1, video=False)
    flat_index.search(query, options.k, [mask])
    latencies = [seconds(lambda: flat_index.search(query, options.k, [mask])) * 1_000 for _ in range(options.rounds)]
    few = float((flat_index.search(query, options.k, [mask])[0] > 0).mean())
    return [
        Measure("latency_ms_p50_masked", quantiles(latencies)["p50"], "ms", "lower", None, quantiles(latencies)),
        Measure("results_masked", few, "share of k", "higher", 1.0),
    ]


def while_writing(flat_index: HostIndex, options: argparse.Namespace) -> list[Measure]:
    """One query at a time beside a thread that replaces batches of 1,000 vectors at full speed."""
    rng, stop, written = np.random.default_rng(options.seed), threading.Event(), 0

    def write() -> None:
        nonlocal written
        while not stop.is_set():
            ids = rng.integers(1, options.posts + 1, 1_000)
            flat_index.upsert(ids, unit_vectors(rng, len(ids), options.dim), traits(ids))
            written += len(ids)

    query, writer = unit_vectors(rng, 1, options.dim), threading.Thread(target=write)
    began = time.perf_counter()
    writer.start()
    latencies = [seconds(lambda: flat_index.search(query, options.k, [Mask()])) * 1_000 for _ in range(options.rounds)]
    stop.set()
    writer.join()
    spread = quantiles(latencies) | {"written_per_second": round(written / (time.perf_counter() - began))}
    return [Measure("latency_ms_p50_while_writing", spread["p50"], "ms", "lower", None, spread)]


def large(options: argparse.Namespace) -> list[Measure]:
    """Memory and latency of a larger index, exact results from an int8 scan."""
    sys.stderr.write(f"loading {options.large_posts:,} posts\n")
    before, flat_index = psutil.Process().memory_info().rss, HostIndex(options.dim)
    load(flat_index, options.large_posts, options.dim, options.seed)
    row = (psutil.Process().memory_info().rss - before) / options.large_posts
    query = unit_vectors(np.random.default_rng(options.seed), 1, options.dim)
    flat_index.search(query, options.k, [Mask()])
    latencies = [seconds(lambda: flat_index.search(query, options.k, [Mask()])) * 1_000 for _ in range(options.rounds)]
    return [
        Measure("bytes_per_post_large", round(row, 1), "bytes", "lower"),
        Measure("memory_gb_large", round(row * options.large_posts / 1e9, 2), "GB", "lower"),
        Measure("latency_ms_p50_large", quantiles(latencies)["p50"], "ms", "lower", None, quantiles(latencies)),
    ]


def kernel_speedups(options: argparse.Namespace, batches: Sequence[Batch]) -> list[Measure]:
    """The time of all int8 products in plain Numba over that in LLVM IR, in turns; the IR has to earn its place."""
    panels = empty_panels(KERNEL_POSTS, options.dim, "int8")
    rows = np.arange(KERNEL_POSTS)
    write(panels, rows, unit_vectors(np.random.default_rng(options.seed), len(rows), options.dim))
    out, result = np.empty((TILE, PANEL), np.float32), []
    for each in batches:
        runs = [partial(product, panels.stored, tiles(each.queries), out) for product in (_in_plain_numba, _in_llvm_ir)]
        for run in runs:
            run()
        speedups = [_cpu_seconds(runs[0]) / _cpu_seconds(runs[1]) for _ in range(options.rounds)]
        name, spread = f"kernel_speedup_{len(each.queries)}", quantiles(speedups)
        result.append(Measure(name, spread["p50"], "times", "higher", KERNEL_GOAL, spread))
    return result


def measures(options: argparse.Namespace) -> list[Measure]:
    """All measures; the large index first, since freed memory stays with the process."""
    result = large(options) if options.large_posts else []
    rng = np.random.default_rng(options.seed)
    sizes = [min(LOADED_AT_ONCE, options.posts - begin) for begin in range(0, options.posts, LOADED_AT_ONCE)]
    vectors = np.concatenate([unit_vectors(rng, size, options.dim) for size in sizes])  # equal to the vectors of `load`
    machine = Machine(vectors)
    bandwidth = [machine.bytes_per_second() / 1e9 for _ in range(options.rounds)]
    flops = [machine.flops() / 1e9 for _ in range(options.rounds)]
    result += [
        Measure("read_gb_per_second", quantiles(bandwidth)["p50"], "GB/s", "higher", None, quantiles(bandwidth)),
        Measure("matmul_gflops", quantiles(flops)["p50"], "GFLOP/s", "higher", None, quantiles(flops)),
    ]
    batches = [batch_of(size, options.seed, vectors) for size in options.batches]
    result += kernel_speedups(options, batches)
    for form in FORMS:
        result += searched(form, options, vectors, batches)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--posts", type=int, default=1_000_000, help="Set the number of posts")
    parser.add_argument("--dim", type=int, default=128, help="Set the dimension of the vectors")
    parser.add_argument("--k", type=int, default=1_000, help="Set the number of posts to find")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16], help="Set the batch sizes in queries")
    parser.add_argument("--rounds", type=int, default=25, help="Set the searches of each kind")
    parser.add_argument(
        "--large-posts",
        type=int,
        default=10_000_000,
        help="Set the posts of the large index; 0 skips it",
    )
    parser.add_argument("--seed", type=int, default=20261125, help="Set the random seed")
    options = parser.parse_args(arguments)
    print_report("retrieval", vars(options), measures(options))


if __name__ == "__main__":
    main()
