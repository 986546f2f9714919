import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix.data.targets import RankingTargets, RetrievalTargets
from phoenix.features.actions import ACTION_COUNT, DWELL_TIME
from phoenix.training.losses import ranking_loss, retrieval_loss

ONES = jnp.ones(ACTION_COUNT)


def targets(labels: np.ndarray, known: np.ndarray) -> RankingTargets:
    return RankingTargets(labels.astype(np.float32), known.astype(np.float32))


def some(seed: int, candidates: int = 5) -> tuple[jnp.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = (2, candidates, ACTION_COUNT)
    return jnp.asarray(rng.normal(size=shape), jnp.float32), (rng.random(shape) < 0.3).astype(np.float32)


@given(st.integers(0, 2**16))
@settings(deadline=None, max_examples=20)
def test_the_ranking_loss_is_the_mean_log_likelihood_and_the_absolute_error_of_the_dwell_time(seed: int) -> None:
    logits, labels = some(seed)
    p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    of_actions = -np.log(np.where(labels > 0, p, 1 - p))[..., :DWELL_TIME].sum(axis=-1)
    expected = (of_actions + np.abs(p - labels)[..., DWELL_TIME]).mean()
    found = ranking_loss(logits, targets(labels, np.ones_like(labels)), ONES)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_unknown_labels_add_no_loss() -> None:
    logits, labels = some(1)
    known = np.ones_like(labels)
    known[:, 2:] = 0
    known[..., 4] = 0
    elsewhere = jnp.where(known > 0, logits, 9.0)
    before, after = (ranking_loss(each, targets(labels, known), ONES) for each in (logits, elsewhere))
    assert before == after


def test_masked_candidates_do_not_dilute_the_loss() -> None:
    logits, labels = some(2)
    known = np.ones_like(labels)
    known[:, 3:] = 0
    expected = ranking_loss(logits[:, :3], targets(labels[:, :3], known[:, :3]), ONES)
    np.testing.assert_allclose(ranking_loss(logits, targets(labels, known), ONES), expected, rtol=1e-6)


def test_the_loss_of_an_action_is_proportional_to_its_weight() -> None:
    logits, labels = some(3)
    known = np.ones_like(labels)
    favorite, click = (jnp.asarray(np.eye(ACTION_COUNT, dtype=np.float32)[action]) for action in (0, 4))
    alone = [ranking_loss(logits, targets(labels, known), weights) for weights in (favorite, click)]
    both = ranking_loss(logits, targets(labels, known), 3.0 * favorite + 0.5 * click)
    np.testing.assert_allclose(both, 3.0 * alone[0] + 0.5 * alone[1], rtol=1e-5)


def test_a_batch_without_known_labels_has_loss_0() -> None:
    logits, labels = some(4)
    assert ranking_loss(logits, targets(labels, np.zeros_like(labels)), ONES) == 0


def retrieval(posts: np.ndarray, post: list[list[int]], log_q: np.ndarray, weights: list[list[float]]) -> float:
    users = np.eye(len(post), posts.shape[1], dtype=np.float32)
    wanted = RetrievalTargets(np.array(post, np.int32), np.array(weights, np.float32), log_q.astype(np.float32))
    return float(retrieval_loss(jnp.asarray(users), jnp.asarray(posts), wanted, jnp.log(jnp.float32(0.5))))


def test_the_retrieval_loss_is_a_weighted_softmax_over_the_posts() -> None:
    posts = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    log_p = 2 * posts[:, :2].T - np.log(np.exp(2 * posts[:, :2].T).sum(axis=1, keepdims=True))
    expected = -(1.0 * log_p[0, 3] + 2.0 * log_p[1, 1]) / 3.0
    found = retrieval(posts, [[3, 0], [1, 1]], np.zeros(4), [[1.0, 0.0], [2.0, 0.0]])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_padding_posts_do_not_change_the_retrieval_loss() -> None:
    posts = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    with_fillers = retrieval(posts, [[1], [0]], np.array([0.0, 0.0, -np.inf, -np.inf]), [[1.0], [1.0]])
    np.testing.assert_allclose(with_fillers, retrieval(posts[:2], [[1], [0]], np.zeros(2), [[1.0], [1.0]]), rtol=1e-6)


def test_log_q_corrects_the_softmax_for_sampling() -> None:
    """Subtracted from the scores: a post that is sampled more often needs a higher score for the same probability."""
    posts = np.random.default_rng(5).normal(size=(4, 6)).astype(np.float32)
    q = np.array([0.9, 0.02, 0.5, 0.2])
    weights = np.exp(2 * posts[:, 0]) / q
    found = [retrieval(posts, [[post]], np.log(q), [[1.0]]) for post in range(4)]
    np.testing.assert_allclose(found, -np.log(weights / weights.sum()), rtol=1e-5)
