"""Training throughput: examples a second of both models, for several batch sizes.

An example is an impression with its labels. The benchmark makes batches from a generated log, hashes them and takes a
step on each, one after the other. It compares the matrix products of a step with the machine's peak, measured in turns
with the steps.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import jax
import numpy as np

from benchmarks.peak import Machine
from benchmarks.report import Measure, print_report, quantiles
from infra.world import WorldConfig, generate
from phoenix.data.batches import Batches, Span
from phoenix.data.impressions import Log, log_of
from phoenix.models.configs import ModelConfig, TrainingConfig, config_named
from phoenix.training.step import Trainer

NOW_MS: Final = 1_790_000_000_000
WORLD: Final = WorldConfig(users=1_000, authors=200, posts=8_000, engagements=300_000, span_ms=7 * 86_400_000)


class Rounds(NamedTuple):
    """The measurements of each round; times in seconds."""

    making: list[float]
    step: list[float]
    examples: list[int]
    peak: list[float]  # peak of the machine, in operations a second


def rounds(batches: Batches, trainer: Trainer, count: int, machine: Machine) -> Rounds:
    """Make a batch and take a step, `count` times; the first step, which compiles, does not count."""
    state, _ = trainer.step(trainer.initial(), batches.batch(0))
    seen = Rounds([], [], [], [])
    for ordinal in range(1, count + 1):
        seen.peak.append(machine.flops_per_second())
        began = time.perf_counter()
        batch = batches.batch(ordinal)
        made = time.perf_counter()
        state, _ = jax.block_until_ready(trainer.step(state, batch))
        seen.step.append(time.perf_counter() - made)
        seen.making.append(made - began)
        seen.examples.append(int(np.count_nonzero(batch.ranking.weights.max(axis=-1))))
    return seen


def learned(log: Log, model: ModelConfig, size: int, count: int, machine: Machine) -> list[Measure]:
    """All figures of batches of `size` slates; examples a second come first."""
    training = replace(TrainingConfig(), batch=size)
    batches = Batches(log, Span(int(log.at.min()), int(log.complete_at.max()) + 1, {}), model, training)
    trainer = Trainer(model, training, batches.steps)
    flops, seen = trainer.flops(batches.batch(0)), rounds(batches, trainer, count, machine)
    name, step = f"{model.name}_batch_{size}", np.array(seen.step)
    rates = quantiles((np.array(seen.examples) / (step + np.array(seen.making))).tolist())
    shares = quantiles((flops / step / np.array(seen.peak)).tolist())
    stepping, making = (quantiles([1_000 * each for each in taken]) for taken in (seen.step, seen.making))
    return [
        Measure(f"{name}_examples_per_second", rates["p50"], "examples/s", "higher", None, rates),
        Measure(f"{name}_peak_share", shares["p50"], "share", "higher", None, shares),
        Measure(f"{name}_step_ms_p50", stepping["p50"], "ms", "lower", None, stepping),
        Measure(f"{name}_making_ms_p50", making["p50"], "ms", "lower", None, making),
        Measure(f"{name}_gflop_per_step", round(flops / 1e9, 3), "GFLOP", "lower"),
    ]


def main(options: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["nano"], help="Set the model configurations")
    parser.add_argument(
        "--batches", type=int, nargs="+", default=[8, 32, 128, 512], help="Set the batch sizes in slates"
    )
    parser.add_argument("--rounds", type=int, default=10, help="Set the measured steps of each batch size")
    arguments = parser.parse_args(options)
    log, machine, measures = log_of(generate(WORLD, NOW_MS).events()), Machine(), []
    for name in arguments.models:
        rates = {}
        for size in arguments.batches:
            figures = learned(log, config_named(name), size, arguments.rounds, machine)
            rates[f"batch_{size}"] = figures[0].value
            sys.stderr.write(f"{name}: {figures[0].value:,.0f} examples/s in batches of {size} slates\n")
            measures += figures
        best = max(rates.values())
        measures.append(Measure(f"{name}_examples_per_second", best, "examples/s", "higher", None, rates))
    print_report("training", vars(arguments), measures)


if __name__ == "__main__":
    main()
