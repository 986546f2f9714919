"""Strict JAX, and a model small enough to compile in every test session."""

from collections.abc import Iterator

import jax
import pytest

from phoenix.models.configs import ModelConfig
from phoenix.serving.engine import Phoenix


@pytest.fixture(scope="package", autouse=True)
def strict_jax() -> Iterator[None]:
    """Make implicit promotion of ranks and dtypes an error, on every thread."""
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    yield
    jax.config.update("jax_numpy_rank_promotion", "allow")
    jax.config.update("jax_numpy_dtype_promotion", "standard")


@pytest.fixture(scope="package")
def tiny() -> ModelConfig:
    return ModelConfig(
        name="tiny",
        dim=32,
        layers=1,
        heads=4,
        kv_heads=2,
        head_dim=8,
        history=12,
        tokens=8,
        table_dim=16,
        embed_dim=64,
        user_rows=500,
        post_rows=1_000,
        author_rows=500,
        token_rows=4_000,
        batch_buckets=(1, 4),
        candidate_buckets=(4, 16),
        post_buckets=(4, 32),
    )


@pytest.fixture(scope="package")
def phoenix(strict_jax: None, tiny: ModelConfig) -> Phoenix:
    """A seeded model with all buckets compiled."""
    model = Phoenix.seeded(tiny, seed=7)
    model.warm_up()
    return model
