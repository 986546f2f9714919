"""The ranker: latency of 2,048 candidates, utilisation of the machine, and the speedup of prefix caching.

`python -m benchmarks.ranker [--models M ...] [--candidates N] [--reuse-history H] [--rounds N]`. A request is one
viewer with a full history and full texts. All ids and words are random, so no CPU cache holds their rows.

`latency` is the time of a whole call, from ids to probabilities on the host, with texts in the text cache, as in
service after the first request for a post. `new_latency` is that of requests with new texts only. `peak_share` is the
utilisation: the floating-point operations of the model's matrix products (user, history and candidates, without
padding) divided by the latency and by the matmul rate of the same round. `stage_…` are the parts, each alone and
without threads: text cache, hashing and padding on the host, candidate embedding, encoding of the history, attention
and the rest. `prefix_reuse_speedup` compares the call with one pass under the mask: in chunks, on threads and with
cached texts like the call, and over all candidates at once; the faster one counts.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, Final

import jax
import numpy as np

from benchmarks.peak import Machine, seconds
from benchmarks.report import Measure, print_report, quantiles
from phoenix.features.actions import ACTION_COUNT
from phoenix.features.inputs import (
    CandidateInputs,
    CandidateRows,
    History,
    blank_candidates,
    blank_history,
    candidate_rows,
    history_rows,
)
from phoenix.models.configs import ModelConfig, config_named
from phoenix.models.parameters import initial_params, pure
from phoenix.models.ranker import Ranker, predictions
from phoenix.serving.engine import Phoenix, chunks
from phoenix.serving.text_cache import Texts

SHARE_GOAL: Final = 0.6
REUSE_GOAL: Final = 2.0
SEED: Final = 20261125
KNOWN_TEXTS: Final = 1 << 16
"""Texts in the cache at the start."""
_REQUESTS: Final = 5
"""Requests of a kind in each round; the first one finds CPU caches filled by the measurement of the peak."""
_MONOLITHIC_CHUNK: Final = 256
"""The fastest chunk of the monolithic pass on two cores, independent of serving's buckets."""


def words(config: ModelConfig, *shape: int, rng: np.random.Generator) -> np.ndarray:
    """Random full texts, as tokens."""
    return rng.integers(1, 2**32, (*shape, config.tokens), np.uint32)


def request(
    config: ModelConfig, count: int, rng: np.random.Generator, known: np.ndarray | None = None
) -> tuple[History, CandidateInputs]:
    """A viewer with a full history, and candidates with full texts: from `known`, or new ones."""
    history, candidates = blank_history(config, 1), blank_candidates(config, 1, count)

    def ids(like: np.ndarray) -> Any:
        return rng.integers(1, 2**62, like.shape)

    def texts(*shape: int) -> np.ndarray:
        return words(config, *shape, rng=rng) if known is None else known[rng.integers(0, len(known), shape)]

    return (
        history._replace(
            user_id=ids(history.user_id),
            post_id=ids(history.post_id),
            author_id=ids(history.author_id),
            tokens=texts(*history.mask.shape),
            actions=rng.random((1, config.history, ACTION_COUNT)) < 0.1,
            mask=np.ones_like(history.mask),
        ),
        candidates._replace(
            post_id=ids(candidates.post_id),
            author_id=ids(candidates.author_id),
            tokens=texts(*candidates.mask.shape),
        ),
    )


def scored(config: ModelConfig, options: argparse.Namespace, machine: Machine) -> list[Measure]:
    """Latency and utilisation of whole calls, and the times of their parts."""
    phoenix = Phoenix(config, initial_params(config, SEED), "benchmark")
    sys.stderr.write(f"{config.name}: {options.candidates} candidates\n")
    phoenix.warm_up(parts=("rank",))
    rng = np.random.default_rng(SEED)
    known = words(config, KNOWN_TEXTS, rng=rng)
    phoenix.texts.means(known)
    flops = phoenix.scoring_flops(1, options.candidates)
    bandwidth = machine.bytes_per_second()
    rates: list[float] = []
    taken: dict[str, list[float]] = {"": [], "new_": []}
    shares: dict[str, list[float]] = {"": [], "new_": []}
    for _ in range(options.rounds):
        rates.append(machine.flops_per_second())
        for kind, texts in {"": known, "new_": None}.items():
            requests = [request(config, options.candidates, rng, texts) for _ in range(_REQUESTS)]
            lasted = [seconds(partial(phoenix.score, *each)) for each in requests]
            taken[kind] += lasted
            shares[kind] += [flops / each / rates[-1] for each in lasted]
    return [
        *(measure for kind in taken for measure in _latencies(f"{config.name}_{kind}latency_ms", taken[kind])),
        _share(f"{config.name}_peak_share", shares[""], SHARE_GOAL if config.name == "small" else None),
        _share(f"{config.name}_new_peak_share", shares["new_"], None),
        Measure(f"{config.name}_gflop_per_request", round(flops / 1e9, 3), "GFLOP", "lower"),
        Measure(f"{config.name}_matmul_peak", round(float(np.median(rates)) / 1e9, 1), "GFLOP/s", "higher"),
        Measure(f"{config.name}_read_bandwidth", round(bandwidth / 1e9, 1), "GB/s", "higher"),
        *stages(phoenix, options, request(config, options.candidates, rng, known)),
    ]


def _latencies(name: str, taken: Sequence[float]) -> list[Measure]:
    spread = quantiles([1_000 * each for each in taken])
    return [Measure(f"{name}_{key}", spread[key], "ms", "lower", None, spread) for key in ("p50", "p99")]


def _share(name: str, values: Sequence[float], goal: float | None) -> Measure:
    spread = {f"p{q}": round(float(np.percentile(values, q)), 3) for q in (10, 50, 90)}
    return Measure(name, spread["p50"], "share", "higher", goal, spread)


def cut(config: ModelConfig, candidates: CandidateInputs, texts: Texts) -> list[CandidateRows]:
    """The hashed chunks of a request."""
    count = candidates.mask.shape[1]
    return [
        candidate_rows(config, candidates, start, size, texts.means)
        for start, _, size in chunks(count, config.candidate_buckets)
    ]


def finish(results: Any) -> None:
    """Wait for the device."""
    for each in jax.tree.leaves(results):
        each.block_until_ready()


def stages(phoenix: Phoenix, options: argparse.Namespace, inputs: tuple[History, CandidateInputs]) -> list[Measure]:
    """Milliseconds of each part of a request, measured one after the other."""
    config, (history, candidates) = phoenix.config, inputs
    params = jax.device_put(initial_params(config, SEED).ranker)
    encode, embed, attend = (
        jax.jit(pure(lambda rows: Ranker(config).encode(rows))),
        jax.jit(pure(lambda rows: Ranker(config).embed(rows))),
        jax.jit(pure(lambda prefix, embedded: Ranker(config).score(prefix, embedded))),
    )
    texts = phoenix.texts
    viewer, rows = history_rows(config, history, texts.means), cut(config, candidates, texts)
    prefix, embedded = encode(params, viewer), [embed(params, chunk) for chunk in rows]
    parts: dict[str, Callable[[], object]] = {
        "texts": lambda: (texts.means(history.tokens), texts.means(candidates.tokens)),
        "texts_and_hash": lambda: (history_rows(config, history, texts.means), cut(config, candidates, texts)),
        "encode": lambda: finish(encode(params, viewer)),
        "look_up": lambda: finish([embed(params, chunk) for chunk in rows]),
        "attend": lambda: finish([attend(params, prefix, chunk) for chunk in embedded]),
    }
    result = []
    for name, work in parts.items():
        work()
        spread = quantiles([seconds(work) * 1_000 for _ in range(options.rounds)])
        result.append(Measure(f"{config.name}_stage_{name}_ms_p50", spread["p50"], "ms", "lower", None, spread))
    return result


def reuse(config: ModelConfig, options: argparse.Namespace) -> Measure:
    """Prefix caching: the time of the monolithic pass divided by that of the call on the same request."""
    history, candidates = request(config, options.candidates, np.random.default_rng(SEED))
    phoenix = Phoenix(config, initial_params(config, SEED), "benchmark")
    params = jax.device_put(initial_params(config, SEED).ranker)
    monolithic = jax.jit(pure(lambda viewer, rows: predictions(Ranker(config)(viewer, rows))))

    def in_one_pass(config: ModelConfig, threads: ThreadPoolExecutor) -> None:
        viewer = history_rows(config, history, phoenix.texts.means)
        rows = cut(config, candidates, phoenix.texts)
        list(threads.map(lambda chunk: np.asarray(monolithic(params, viewer, chunk)), rows))

    ways: dict[str, Callable[[], object]] = {"reused": lambda: phoenix.score(history, candidates)}
    with ThreadPoolExecutor() as threads:
        for size in {*config.candidate_buckets, _MONOLITHIC_CHUNK, options.candidates}:
            sized = replace(config, candidate_buckets=(size,))
            ways[f"monolithic_{size}"] = partial(in_one_pass, sized, threads)
        for name, work in ways.items():
            sys.stderr.write(f"{config.name}, history {config.history}: {name}\n")
            work()
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.rounds // 4 + 1):
            for name, work in ways.items():
                taken[name].append(seconds(work))
    median = {name: float(np.median(values)) for name, values in taken.items()}
    reused = median.pop("reused")
    speedups = {name: round(value / reused, 2) for name, value in median.items()}
    return Measure("prefix_reuse_speedup", min(speedups.values()), "times", "higher", REUSE_GOAL, speedups)


def main(options: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["small", "nano"], help="Set the model configurations")
    parser.add_argument("--candidates", type=int, default=2_048, help="Set the candidates of a request")
    parser.add_argument(
        "--reuse-history", type=int, default=512, help="Set the history positions for prefix caching; 0 skips it"
    )
    parser.add_argument("--rounds", type=int, default=100, help="Set the number of rounds")
    arguments = parser.parse_args(options)
    machine, measures = Machine(), []
    for name in arguments.models:
        measures += scored(config_named(name), arguments, machine)
    if arguments.reuse_history:
        measures.append(reuse(replace(config_named("small"), history=arguments.reuse_history), arguments))
    print_report("ranker", vars(arguments), measures)


if __name__ == "__main__":
    main()
