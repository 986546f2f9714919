"""The prior against a loop over single posts, and its order of simple feeds."""

import haiku as hk
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.ports.clock import DAY_MS, HOUR_MS
from phoenix.features.actions import BASE_RATES, DISCRETE, IS_NEGATIVE
from phoenix.features.inputs import CandidateInputs, History, candidate_rows, history_rows
from phoenix.models.configs import ModelConfig
from phoenix.models.parameters import initial_params
from phoenix.models.ranker import word_table
from phoenix.serving.engine import Phoenix
from tests.phoenix.builders import some_candidates, some_history
from thunder_ingest.events import ACTION_INDEX, ActionName

FAVORITE, CLICK, DWELL, REPORT = (ACTION_INDEX[name] for name in ("favorite", "click", "dwell", "report"))


@pytest.fixture(scope="module")
def untrained(strict_jax: None, tiny: ModelConfig) -> Phoenix:
    return Phoenix.seeded(tiny, seed=7)


def alike(history: History, candidates: CandidateInputs, rng: np.random.Generator) -> CandidateInputs:
    """Candidates of which a half repeat authors and texts of the viewer's history."""
    authors, tokens = candidates.author_id.copy(), candidates.tokens.copy()
    for viewer in range(len(authors)):
        for candidate in range(0, authors.shape[1], 2):
            position = rng.integers(history.author_id.shape[1])
            authors[viewer, candidate] = history.author_id[viewer, position]
            tokens[viewer, candidate] = history.tokens[viewer, position]
    return candidates._replace(author_id=authors, tokens=tokens)


def scored_one_by_one(
    config: ModelConfig, params: hk.Params, history: History, candidates: CandidateInputs
) -> np.ndarray:
    """The formula of `phoenix.models.prior` for each viewer and candidate, in float64."""
    table = np.asarray(word_table(params), np.float64)
    read_rows, asked = history_rows(config, history), candidate_rows(config, candidates, 0, candidates.post_id.shape[1])

    def text(rows: np.ndarray) -> np.ndarray:
        mean = table[rows[rows > 0]].mean(axis=0) if (rows > 0).any() else np.zeros(table.shape[1])
        return mean / max(float(np.linalg.norm(mean)), 1e-6)

    scores = np.zeros((*asked.post.shape[:2], DISCRETE))
    for viewer, candidate in np.ndindex(*scores.shape[:2]):
        present = read_rows.mask[viewer]
        actions = read_rows.actions[viewer] & present[:, None]
        recorded = (read_rows.recorded[viewer] & present[:, None])[:, :DISCRETE]
        rates = ((actions[:, :DISCRETE] & recorded).sum(axis=0) + 20 * BASE_RATES) / (recorded.sum(axis=0) + 20)
        of_text, of_author = np.zeros(2), np.zeros(2)
        for position in np.flatnonzero(present):
            done = actions[position]
            is_negative = done[IS_NEGATIVE].any()
            engaged = np.delete(done, [DWELL, DISCRETE])[~np.delete(IS_NEGATIVE, [DWELL, DISCRETE])].any()
            read = done[DISCRETE] * min(2.0 ** (read_rows.dwell[viewer, position] - 5), 1.0)
            weight = -1.0 if is_negative else max(1.0 * engaged, 0.5 * done[DWELL], read, 0.1)
            cosine = text(asked.tokens[viewer, candidate]) @ text(read_rows.tokens[viewer, position])
            of_text += np.exp(4 * (cosine - 1)) * np.array([weight, is_negative])
            same = np.array_equal(asked.author[viewer, candidate], read_rows.author[viewer, position])
            of_author += same * np.array([weight, is_negative])
        affinity = np.log1p(np.maximum(of_text, -0.9)) + 0.5 * np.log1p(np.maximum(of_author, -0.9))
        affinity = affinity[IS_NEGATIVE[:DISCRETE].astype(int)]
        totals = candidates.totals[viewer, candidate].astype(np.float64)
        done, shown = np.minimum(totals[:DISCRETE], totals[-1]), totals[-1]
        lift = np.log((done + 20 * rates) / ((shown + 20) * rates))
        logits = np.log(rates / (1 - rates)) + affinity + 0.1 * lift - 0.03 * asked.age[viewer, candidate]
        scores[viewer, candidate] = 1 / (1 + np.exp(-logits))
    return scores


@given(st.integers(0, 2**16), st.integers(0, 12))
@settings(deadline=None, max_examples=15)
def test_the_prior_is_its_formula(tiny: ModelConfig, untrained: Phoenix, seed: int, masked: int) -> None:
    rng = np.random.default_rng(seed)
    history = some_history(tiny, 2, 12, seed)
    history = history._replace(mask=history.mask & (np.arange(12) >= masked))
    candidates = alike(history, some_candidates(tiny, 2, 6, seed), rng)
    expected = scored_one_by_one(tiny, initial_params(tiny, 7).ranker, history, candidates)
    np.testing.assert_allclose(untrained.score(history, candidates)[..., :DISCRETE], expected, rtol=1e-3)


def of_two(tiny: ModelConfig) -> tuple[History, CandidateInputs]:
    """One viewer, who has passed over everything, and two equal candidates by other authors with other words."""
    history, candidates = some_history(tiny, 1, 12), some_candidates(tiny, 1, 2)
    return history._replace(actions=np.zeros_like(history.actions)), candidates._replace(
        totals=np.zeros_like(candidates.totals), age_ms=np.full_like(candidates.age_ms, HOUR_MS)
    )


@pytest.mark.parametrize("column", ["author_id", "tokens"])
def test_posts_like_engaged_ones_come_first(tiny: ModelConfig, untrained: Phoenix, column: str) -> None:
    history, candidates = of_two(tiny)
    history.actions[0, 3, CLICK] = True
    getattr(candidates, column)[0, 1] = getattr(history, column)[0, 3]
    scores = untrained.score(history, candidates)[0]
    assert scores[1, FAVORITE] > 1.3 * scores[0, FAVORITE]


@pytest.mark.parametrize("column", ["author_id", "tokens"])
def test_posts_like_reported_ones_come_last(tiny: ModelConfig, untrained: Phoenix, column: str) -> None:
    history, candidates = of_two(tiny)
    history.actions[0, 3, REPORT] = True
    getattr(candidates, column)[0, 1] = getattr(history, column)[0, 3]
    scores = untrained.score(history, candidates)[0]
    assert scores[1, FAVORITE] < scores[0, FAVORITE] / 1.3
    assert scores[1, REPORT] > 1.3 * scores[0, REPORT]


@pytest.mark.parametrize("other", ["click", "dwell", "dwell_time"])
def test_no_other_action_outweighs_negative_feedback(tiny: ModelConfig, untrained: Phoenix, other: ActionName) -> None:
    history, candidates = of_two(tiny)
    history.actions[0, 3, [REPORT, ACTION_INDEX[other]]] = True
    candidates.author_id[0, 1] = history.author_id[0, 3]
    scores = untrained.score(history, candidates)[0]
    assert scores[1, FAVORITE] < scores[0, FAVORITE] / 1.3


def test_a_glance_counts_less_than_a_reading_and_a_reading_like_a_click(tiny: ModelConfig, untrained: Phoenix) -> None:
    history, candidates = of_two(tiny)
    candidates.author_id[0, 1] = history.author_id[0, 3]

    def scored(dwell_ms: float, *actions: int) -> float:
        done, dwelled = np.zeros_like(history.actions), np.zeros_like(history.dwell_ms)
        done[0, 3, list(actions)], dwelled[0, 3] = True, dwell_ms
        return float(untrained.score(history._replace(actions=done, dwell_ms=dwelled), candidates)[0, 1, FAVORITE])

    passed_over, glance, reading = scored(0), scored(1_500, DISCRETE), scored(9_000, DISCRETE)
    assert passed_over < glance < reading == pytest.approx(scored(0, ACTION_INDEX["profile_click"]))


def test_without_a_history_the_popular_and_then_the_new_post_comes_first(tiny: ModelConfig, untrained: Phoenix) -> None:
    history, candidates = of_two(tiny)
    history = history._replace(mask=np.zeros_like(history.mask))
    candidates.totals[0, 1, [FAVORITE, -1]] = [50, 100]
    scores = untrained.score(history, candidates)[0]
    assert scores[1, FAVORITE] > scores[0, FAVORITE]
    fresh = candidates._replace(totals=np.zeros_like(candidates.totals), age_ms=np.array([[2 * DAY_MS, HOUR_MS]]))
    scores = untrained.score(history, fresh)[0]
    assert (scores[1, :DISCRETE] > scores[0, :DISCRETE]).all()


def test_a_viewer_and_a_post_without_any_history_get_the_base_rates(tiny: ModelConfig, untrained: Phoenix) -> None:
    history, candidates = of_two(tiny)
    history = history._replace(mask=np.zeros_like(history.mask))
    newest = candidates._replace(age_ms=np.zeros_like(candidates.age_ms))
    np.testing.assert_allclose(untrained.score(history, newest)[0, 0, :DISCRETE], BASE_RATES, rtol=1e-4)
