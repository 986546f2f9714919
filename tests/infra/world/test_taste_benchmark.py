"""The exam on the generated world: what is asked, and that the oracle passes it."""

import numpy as np
import pytest

from infra.world import World, WorldConfig, generate
from infra.world.taste_benchmark import CANDIDATES, Exam
from phoenix.evaluation.bootstrap import Estimate
from phoenix.models.configs import ModelConfig
from phoenix.serving.engine import Phoenix

NOW = 1_790_000_000_000


@pytest.fixture(scope="module")
def world() -> World:
    return generate(WorldConfig(users=150, authors=60, posts=3_000, engagements=40_000), NOW)


@pytest.fixture(scope="module")
def exam(world: World) -> Exam:
    return Exam(world, viewers=40)


@pytest.fixture(scope="module")
def references(exam: Exam) -> dict[str, dict[str, Estimate]]:
    return exam.references()


def test_the_oracle_has_full_marks_and_chance_has_not(references: dict[str, dict[str, Estimate]]) -> None:
    assert all(estimate.value == pytest.approx(1) for estimate in references["oracle"].values())
    assert all(estimate.high < 0.8 for estimate in references["chance"].values())


def test_collaborative_filtering_knows_posts_that_were_seen_and_no_new_ones(
    references: dict[str, dict[str, Estimate]],
) -> None:
    known, new = (references["co_engagement"][f"ndcg@35_{kind}"] for kind in ("known", "new"))
    assert known.low > references["chance"]["ndcg@35_known"].high
    assert new.value == pytest.approx(references["chance"]["ndcg@35_new"].value, abs=0.1)


def test_nobody_has_seen_a_post_that_is_held_out(exam: Exam, world: World) -> None:
    posts = exam.log.posts.post_id
    new = posts[np.unique(exam.candidates["new"])]
    known = posts[np.unique(exam.candidates["known"])]
    shown = posts[exam.log.post]
    assert not np.isin(new, shown).any()
    assert not np.isin(new, known).any()
    assert np.isin(new, [event.post_id for event in world.posts]).all()
    assert np.isin(shown, known).mean() > 0.4


def test_candidates_are_posts_that_the_viewer_has_not_seen_and_none_comes_twice(exam: Exam) -> None:
    for viewer, known in zip(exam.viewer_id, exam.candidates["known"], strict=True):
        assert len(set(known.tolist())) == CANDIDATES
        assert not np.isin(known, exam.log.post[exam.log.viewer_id == viewer]).any()


def test_models_are_judged_by_the_same_marks(
    exam: Exam, references: dict[str, dict[str, Estimate]], tiny: ModelConfig
) -> None:
    figures = exam.judge_models(Phoenix.seeded(tiny, 1))
    assert figures.keys() == references["oracle"].keys()
    assert all(0 < estimate.low <= estimate.value <= estimate.high < 1 for estimate in figures.values())


def test_half_a_taste_earns_half_marks(exam: Exam) -> None:
    """A scorer that knows the truth of every other viewer is worth what lies between the oracle and chance."""
    worth, chance = exam.truth, np.random.default_rng(1).random(exam.truth.shape)
    halved = np.where(np.arange(len(worth))[:, np.newaxis] % 2 == 0, worth, chance)
    figures, floor = exam.judge_matrix(halved), exam.judge_matrix(chance)
    for name, estimate in figures.items():
        assert estimate.value == pytest.approx((1 + floor[name].value) / 2, abs=0.1)


def test_a_world_that_is_too_small_to_draw_from_is_refused() -> None:
    with pytest.raises(ValueError, match="too few posts"):
        Exam(generate(WorldConfig(posts=300), NOW), viewers=5)
