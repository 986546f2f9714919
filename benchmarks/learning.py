"""Learning curves: how well the models predict the generated world's tastes after 0 to N training examples.

Tasks and figures are those of `infra.world.taste_benchmark`: shares of the score of an oracle with the true tastes,
above all NDCG@35 on known posts and on new ones. The models train on the newest N impressions, with all earlier ones as
history, for about the same number of steps for every N. The baselines always learn from the whole log.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.report import Measure, print_report
from infra.ports.clock import DAY_MS
from infra.world import WorldConfig, generate
from infra.world.taste_benchmark import OracleBenchmark
from phoenix.data.batches import Batches, Span
from phoenix.data.impressions import Log
from phoenix.evaluation.bootstrap import Estimate
from phoenix.models.configs import ModelConfig, TrainingConfig, config_named
from phoenix.serving.engine import Phoenix
from phoenix.training.loop import Progress, fit
from phoenix.training.step import Trainer
from thunder_ingest.events import ACTIONS

NOW_MS: Final = 1_790_000_000_000
GOALS: Final = {"ndcg@35_known": 0.9, "ndcg@35_new": 0.75}
BAR: Final = 40  # characters of a full bar
TRAINING: Final = TrainingConfig(
    candidates=16,
    rate=6e-3,
    table_rate=0.2,
    falling=1.0,
    span_hours=7 * 24,
    viewer_dropout=0.0,
    history_dropout=0.2,
    negative_weight=1.0,
    shown_weight=0.1,
    mean_of_last=0.3,
    sampled_posts=512,
    action_weights=dict.fromkeys(ACTIONS, 0.1) | {"click": 1.0, "favorite": 4.0, "dwell": 4.0, "dwell_time": 10.0},
)
"""Settings for a few thousand slates of the generated world.

High learning rates and averaged parameters suit the short run. Sampled negatives are needed because the world shows
selected posts, and the benchmark asks about all posts. Shown posts get a small retrieval weight because the benchmark
measures tastes. The dwell time has a high weight: it is a better sign than the rare favorites. A slate may span a week,
which fills the slates; tastes hardly change in a week.
"""

QUICK: Final = {
    "users": 300,
    "authors": 80,
    "posts": 3_000,
    "engagements": 60_000,
    "examples": [0, 30_000],
    "steps": 100,
    "viewers": 100,
}
_ROWS: Final = 4  # rows of a table for each id in the log
_WIDTH: Final = 128
_ALIKE: Final = 2  # rows of a table without identities: row 0, and one row for all ids
Figures = Mapping[str, Estimate]


def sized(model: ModelConfig, log: Log) -> ModelConfig:
    """The model with tables for this log: in small steps, unused rows would take most of the time.

    Viewers and posts have no rows of their own. About twenty examples of a post teach its row more noise than signal,
    and the newest positions of the history hold the information of a viewer's row. The transformer is twice as wide as
    nano's, which lowers the variance between seeds; a still wider one is no better.
    """
    return replace(
        model,
        dim=_WIDTH,
        heads=_WIDTH // model.head_dim,
        kv_heads=_WIDTH // model.head_dim // 2,
        likeness_first=True,
        user_rows=_ALIKE,
        post_rows=_ALIKE,
        author_rows=_ROWS * len(np.unique(log.posts.author_id)),
        token_rows=_ROWS * len(np.unique(log.posts.tokens)),
    )


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
    batches = Batches(benchmark.log, span, model, replace(training, epochs=epochs))
    trainer = Trainer(model, training, batches.steps)

    def show(progress: Progress) -> None:
        if progress.step % 100 == 0 or progress.step == batches.steps:
            losses = ", ".join(f"{loss} {value:.4f}" for loss, value in progress.figures.items())
            sys.stderr.write(f"  step {progress.step:,} of {batches.steps:,}, {epochs} epochs: {losses}\n")

    state = fit(trainer, batches, trainer.initial(), show)
    return Phoenix(buckets, state.served, f"examples{examples}")


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
    parser.add_argument("--model", default="nano", help="Set the model configuration, such as nano or small")
    parser.add_argument("--viewers", type=int, default=300, help="Set the number of benchmarked viewers")
    parser.add_argument("--seeds", type=int, default=1, help="Set the number of worlds and models to average")
    parser.add_argument("--seed", type=int, default=0, help="Set the first random seed")
    parser.add_argument("--quick", action="store_true", help="Use a small world and few steps; overrides other options")
    arguments = parser.parse_args(options)
    if arguments.quick:
        vars(arguments).update(QUICK)
    runs = [run(arguments, arguments.seed + number) for number in range(arguments.seeds)]
    scorers = {name: mean([each[name] for each in runs]) for name in runs[0]}
    Console(stderr=True, width=None if sys.stderr.isatty() else 240).print(chart(scorers))
    print_report("learning", vars(arguments), measures(scorers))


def run(arguments: argparse.Namespace, seed: int) -> dict[str, Figures]:
    """Every scorer on one world, with models of one seed."""
    sizes = {name: getattr(arguments, name) for name in ("users", "authors", "posts", "engagements")}
    world = WorldConfig(seed=WorldConfig().seed + seed, span_ms=arguments.days * DAY_MS, **sizes)
    benchmark = OracleBenchmark(generate(world, NOW_MS), arguments.viewers, seed)
    scorers: dict[str, Figures] = dict(benchmark.references(seed))
    training = replace(TRAINING, seed=seed, batch=arguments.batch)
    model = sized(config_named(arguments.model), benchmark.log)
    for examples in arguments.examples:
        sys.stderr.write(f"seed {seed}: {examples:,} of {len(benchmark.log.at):,} impressions\n")
        models = trained(benchmark, model, training, examples, arguments.steps)
        scorers[f"models_{examples}"] = figures = benchmark.evaluate_models(models)
        sys.stderr.write(f"  {', '.join(f'{name} {figures[name].value:.3f}' for name in figures)}\n")
    return scorers


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
