"""Learning curves: how well the models predict the generated world's tastes after 0 to N training examples.

Tasks and figures are those of `infra.world.taste_benchmark`: shares of the score of an oracle with the true tastes,
above all NDCG@35 on known posts and on new ones. The models train on the newest N impressions, with all earlier ones as
history, for about the same number of steps for every N. The baselines always learn from the whole log.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.report import Measure, print_report
from infra.ports.clock import DAY_MS
from infra.world import World, WorldConfig, generate
from infra.world.taste_benchmark import OracleBenchmark
from phoenix.data.batches import Batches, Span
from phoenix.evaluation.bootstrap import Estimate
from phoenix.models.configs import ModelConfig, TrainingConfig
from phoenix.serving.engine import Phoenix
from phoenix.training import Progress, fit
from phoenix.training.run_config import read_run_config
from thunder_ingest.events import encode

NOW_MS: Final = 1_790_000_000_000
GOALS: Final = {"ndcg@35_known": 0.9, "ndcg@35_new": 0.75}
BAR: Final = 40  # characters of a full bar
CONFIG: Final = Path(__file__).parents[1] / "examples" / "world.toml"
"""The configuration of the models and of their training, with its reasons."""

QUICK: Final = {
    "users": 300,
    "authors": 80,
    "posts": 3_000,
    "engagements": 60_000,
    "examples": [0, 30_000],
    "steps": 100,
    "viewers": 100,
}
Figures = Mapping[str, Estimate]


def trained(
    benchmark: OracleBenchmark, model: ModelConfig, training: TrainingConfig, examples: int, steps: int
) -> Phoenix:
    """The models after `steps` steps, rounded up to epochs, on the newest `examples` impressions; seeded ones for 0."""
    buckets = replace(model, batch_buckets=(16,))
    if not examples:
        return Phoenix.seeded(buckets, training.seed)
    until_ms = int(benchmark.log.complete_at.max()) + 1
    since_ms = int(np.sort(benchmark.log.at)[-min(examples, len(benchmark.log.at))])
    span = Span(since_ms, until_ms, {})
    epochs = -(-steps // Batches(benchmark.log, span, model, training).steps_per_epoch)

    def show(progress: Progress) -> None:
        if progress.step % 100 == 0:
            figures = ", ".join(f"{name} {value:.4f}" for name, value in progress.figures.items())
            sys.stderr.write(f"  step {progress.step:,}, {epochs} epochs: {figures}\n")

    fitted = fit(benchmark.log, span, model, replace(training, epochs=epochs), report=show)
    return Phoenix(buckets, fitted.state.served, f"examples{examples}")


def measures(scorers: Mapping[str, Figures]) -> list[Measure]:
    """Every figure of every scorer; the goals apply to the models with the most examples."""
    last = [name for name in scorers if name.startswith("models")][-1]
    return [
        Measure(
            f"{scorer}_{name}",
            round(estimate.value, 4),
            "share of the oracle's",
            "higher",
            GOALS.get(name) if scorer == last else None,
            {"low": round(estimate.low, 4), "high": round(estimate.high, 4)},
        )
        for scorer, figures in scorers.items()
        for name, estimate in figures.items()
    ]


def chart(scorers: Mapping[str, Figures]) -> Table:
    """A table with a bar for each scorer on known and new posts, and with all figures."""
    table = Table(title="share of the oracle's, ± 95 %", title_justify="left")
    table.add_column("", no_wrap=True)
    for name in (names := [*next(iter(scorers.values()))]):
        table.add_column(name, no_wrap=True)
    for scorer, figures in scorers.items():
        table.add_row(scorer, *(_bar(figures[name], long=name in GOALS) for name in names))
    return table


def _bar(estimate: Estimate, *, long: bool) -> str:
    number = f"{estimate.value:.3f} ± {(estimate.high - estimate.low) / 2:.3f}"
    return f"{'█' * round(BAR * estimate.value):{BAR}} {number}" if long else number


def main(options: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000, help="Set the viewers of the world")
    parser.add_argument("--authors", type=int, default=200, help="Set the authors of the world")
    parser.add_argument("--posts", type=int, default=8_000, help="Set the posts of the world")
    parser.add_argument("--engagements", type=int, default=300_000, help="Set the engagements, including impressions")
    parser.add_argument("--days", type=int, default=7, help="Set the world's span in days")
    parser.add_argument(
        "--examples", type=int, nargs="*", default=[0, 10_000, 30_000, 150_000], help="Set the numbers of examples"
    )
    parser.add_argument("--steps", type=int, default=1_000, help="Set the steps of each run, rounded up to epochs")
    parser.add_argument("--batch", type=int, default=64, help="Set the slates of a step")
    parser.add_argument("--config", type=Path, default=CONFIG, help="Read the models and the training from this file")
    parser.add_argument("--log", type=Path, help="Write the log of the first world to this directory, and stop")
    parser.add_argument("--viewers", type=int, default=300, help="Set the number of benchmarked viewers")
    parser.add_argument("--seeds", type=int, default=1, help="Set the number of worlds and models to average")
    parser.add_argument("--seed", type=int, default=0, help="Set the first random seed")
    parser.add_argument("--quick", action="store_true", help="Use a small world and few steps; overrides other options")
    arguments = parser.parse_args(options)
    if arguments.quick:
        vars(arguments).update(QUICK)
    if arguments.log:
        write_log(world_of(arguments, arguments.seed), arguments.log)
        return
    runs = [run(arguments, arguments.seed + number) for number in range(arguments.seeds)]
    scorers = {name: mean([each[name] for each in runs]) for name in runs[0]}
    Console(stderr=True, width=None if sys.stderr.isatty() else 240).print(chart(scorers))
    print_report("learning", vars(arguments) | {"config": str(arguments.config)}, measures(scorers))


def run(arguments: argparse.Namespace, seed: int) -> dict[str, Figures]:
    """Every scorer on one world, with models of one seed."""
    benchmark = OracleBenchmark(world_of(arguments, seed), arguments.viewers, seed)
    scorers: dict[str, Figures] = dict(benchmark.references(seed))
    model, training, _ = read_run_config(arguments.config)
    training = replace(training, seed=seed, batch=arguments.batch)
    for examples in arguments.examples:
        sys.stderr.write(f"seed {seed}: {examples:,} of {len(benchmark.log.at):,} impressions\n")
        models = trained(benchmark, model, training, examples, arguments.steps)
        scorers[f"models_{examples}"] = figures = benchmark.evaluate_models(models)
        sys.stderr.write(f"  {', '.join(f'{name} {figures[name].value:.3f}' for name in figures)}\n")
    return scorers


def world_of(arguments: argparse.Namespace, seed: int) -> World:
    """The world of a seed."""
    sizes = {name: getattr(arguments, name) for name in ("users", "authors", "posts", "engagements")}
    return generate(WorldConfig(seed=WorldConfig().seed + seed, span_ms=arguments.days * DAY_MS, **sizes), NOW_MS)


def write_log(world: World, directory: Path) -> None:
    """Write the posts and engagements of a world as a log for `foryou train`."""
    directory.mkdir(parents=True, exist_ok=True)
    for topic, events in (("posts", world.posts), ("engagements", world.engagements)):
        (directory / f"{topic}.jsonl").write_bytes(b"".join(encode(event) + b"\n" for event in events))


def mean(runs: Sequence[Figures]) -> Figures:
    """The mean over seeds of the values and of the ends of their intervals, which are over viewers."""
    return {
        name: Estimate(
            *(float(np.mean([getattr(each[name], end) for each in runs])) for end in ("value", "low", "high"))
        )
        for name in runs[0]
    }


if __name__ == "__main__":
    main()
