"""The oracle benchmark of the generated world: candidates, held-out posts and the figures of known scorers."""

import numpy as np
import pytest

from infra.world import World, WorldConfig, generate
from infra.world.taste_benchmark import CANDIDATES, OracleBenchmark
from phoenix.evaluation.bootstrap import Estimate
from phoenix.serving.engine import Phoenix
from tests.phoenix.builders import SMALLEST

NOW = 1_790_000_000_000


@pytest.fixture(scope="module")
def world() -> World:
    return generate(WorldConfig(users=150, authors=60, posts=3_000, engagements=40_000), NOW)


@pytest.fixture(scope="module")
def benchmark(world: World) -> OracleBenchmark:
    return OracleBenchmark(world, viewers=40)


@pytest.fixture(scope="module")
def references(benchmark: OracleBenchmark) -> dict[str, dict[str, Estimate]]:
    return benchmark.references()


def test_the_oracle_has_one_in_all_figures_and_random_scores_less(references: dict[str, dict[str, Estimate]]) -> None:
    assert all(estimate.value == pytest.approx(1) for estimate in references["oracle"].values())
    assert all(estimate.high < 0.8 for estimate in references["chance"].values())


def test_collaborative_filtering_ranks_known_posts_and_no_new_ones(
    references: dict[str, dict[str, Estimate]],
) -> None:
    known, new = (references["co_engagement"][f"ndcg@35_{kind}"] for kind in ("known", "new"))
    assert known.low > references["chance"]["ndcg@35_known"].high
    assert new.value == pytest.approx(references["chance"]["ndcg@35_new"].value, abs=0.1)


def test_the_log_has_no_impressions_of_held_out_posts(benchmark: OracleBenchmark, world: World) -> None:
    posts = benchmark.log.posts.post_id
    new = posts[np.unique(benchmark.candidates["new"])]
    known = posts[np.unique(benchmark.candidates["known"])]
    shown = posts[benchmark.log.post]
    assert not np.isin(new, shown).any()
    assert not np.isin(new, known).any()
    assert np.isin(new, [event.post_id for event in world.posts]).all()
    assert np.isin(shown, known).mean() > 0.4


def test_candidates_are_distinct_posts_that_the_viewer_has_not_seen(benchmark: OracleBenchmark) -> None:
    for viewer, known in zip(benchmark.viewer_id, benchmark.candidates["known"], strict=True):
        assert len(set(known.tolist())) == CANDIDATES
        assert not np.isin(known, benchmark.log.post[benchmark.log.viewer_id == viewer]).any()


def test_models_get_the_same_figures_as_the_references(
    benchmark: OracleBenchmark, references: dict[str, dict[str, Estimate]]
) -> None:
    figures = benchmark.evaluate_models(Phoenix.seeded(SMALLEST, 1))
    assert figures.keys() == references["oracle"].keys()
    assert all(0 < estimate.low <= estimate.value <= estimate.high < 1 for estimate in figures.values())


def test_a_scorer_with_the_truth_of_half_the_viewers_is_midway_between_oracle_and_chance(
    benchmark: OracleBenchmark,
) -> None:
    truth, chance = benchmark.truth, np.random.default_rng(1).random(benchmark.truth.shape)
    halved = np.where(np.arange(len(truth))[:, np.newaxis] % 2 == 0, truth, chance)
    figures, floor = benchmark.evaluate_matrix(halved), benchmark.evaluate_matrix(chance)
    for name, estimate in figures.items():
        assert estimate.value == pytest.approx((1 + floor[name].value) / 2, abs=0.1)


def test_a_world_with_too_few_posts_is_refused() -> None:
    with pytest.raises(ValueError, match="too few posts"):
        OracleBenchmark(generate(WorldConfig(posts=300), NOW), viewers=5)
