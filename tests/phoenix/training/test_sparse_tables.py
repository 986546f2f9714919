"""A step on compact tables, scattered back, equals the step on whole tables."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix.data.batches import Batch
from phoenix.features.inputs import CandidateRows, HistoryRows, PostRows
from phoenix.models.configs import NANO
from phoenix.training.optimisers import optimiser
from phoenix.training.sparse_tables import compact, gather, scatter, sized

MODEL = replace(NANO, user_rows=60, post_rows=5_000, author_rows=700, token_rows=3_000)
SIZES = {"user": MODEL.user_rows, "post": MODEL.post_rows, "author": MODEL.author_rows, "tokens": MODEL.token_rows}
COLUMNS = {
    "ranker/users/table": "user",
    "ranker/posts/table": "post",
    "ranker/authors/table": "author",
    "two_tower/authors": "author",
    "two_tower/tokens": "tokens",
}
WIDTH = 4
STEP = optimiser(rate=0.01, table_rate=0.1, weight_decay=0.1)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Batches with one, few or many distinct rows, first, last and absent rows included; all parts share them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pools = {
        column: np.append(
            rng.integers(0, size, draw(st.sampled_from([0, 3, 900]))), draw(st.sampled_from([0, size - 1]))
        )
        for column, size in SIZES.items()
    }
    none = draw(st.sampled_from([0.0, 0.5, 1.0]))

    def rows(column: str, *shape: int) -> Any:
        return np.where(rng.random(shape) < none, 0, rng.choice(pools[column], shape)).astype(np.int32)

    history = HistoryRows(
        rows("user", 8, 2), rows("post", 8, 20, 2), rows("author", 8, 20, 2), rows("tokens", 8, 20, 5), *[None] * 8
    )
    candidates = CandidateRows(rows("post", 8, 6, 2), rows("author", 8, 6, 2), rows("tokens", 8, 6, 5), *[None] * 7)
    posts = PostRows(rows("author", 90, 2), rows("tokens", 90, 5), None, None)
    return Batch(history, candidates, None, posts, None)  # type: ignore[arg-type]  # no targets are needed here


def initial() -> Any:
    rng = np.random.default_rng(1)
    params = {
        module: {"rows": jnp.asarray(rng.normal(size=(SIZES[column], WIDTH)), jnp.float32)}
        for module, column in COLUMNS.items()
    } | {"ranker/users/projection": {"w": jnp.ones(WIDTH)}}
    return params, STEP.init(params)


def loss(params: Any, batch: Batch) -> Any:
    """A loss with a different contribution of each place in a batch.

    All contributions to the gradient of a row have one sign. AdaGrad divides by the size of the gradient, so the
    rounding of terms that cancel would grow.
    """
    total = jnp.zeros(())
    for module, column in COLUMNS.items():
        for part in (batch.history, batch.candidates, batch.posts):
            if (rows := getattr(part, column, None)) is not None:
                found = jnp.take(params[module]["rows"], rows, axis=0) @ params["ranker/users/projection"]["w"]
                places = (1.5 + jnp.cos(jnp.arange(rows.size, dtype=jnp.float32))).reshape(rows.shape)
                total += jnp.sum(jax.nn.softplus(found) * places * (rows != 0).astype(jnp.float32))
    return total


@jax.jit
def whole(state: Any, batch: Batch) -> Any:
    params, of = state
    updates, after = STEP.update(jax.grad(loss)(params, batch), of, params)
    return optax.apply_updates(params, updates), after


@jax.jit
def of_parts(state: Any, batch: Batch, asked: Any) -> Any:
    return scatter(state, asked, whole(gather(state, asked), batch))


@settings(max_examples=60)
@given(batches(), batches())
def test_a_step_on_compact_tables_equals_a_step_on_whole_tables(first: Batch, second: Batch) -> None:
    expected = found = initial()
    for batch in (first, second):
        expected = whole(expected, batch)
        found = of_parts(found, *compact(MODEL, batch))
    for (path, mine), its in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-5, atol=1e-6, err_msg=jax.tree_util.keystr(path))


@given(batches())
def test_a_compact_batch_uses_the_same_rows_by_their_places(batch: Batch) -> None:
    small, (users, *asked) = compact(MODEL, batch)
    assert users is None  # so few that the optimiser moves them all
    np.testing.assert_array_equal(small.history.user, batch.history.user)
    for rows, column in zip(asked, ("post", "author", "tokens"), strict=True):
        assert rows is not None
        assert rows[0] == 0
        assert (np.diff(rows) > 0).all()
        for mine, its in zip(small, batch, strict=True):
            if (of := getattr(its, column, None)) is not None:
                np.testing.assert_array_equal(rows[getattr(mine, column)], of)
    sizes, posts = sized(MODEL, (users, *asked)), asked[0]
    assert posts is not None
    assert (sizes.user_rows, sizes.post_rows) == (MODEL.user_rows, len(posts))
    assert 64 < sizes.author_rows <= MODEL.author_rows
