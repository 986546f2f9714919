"""Strict JAX, and a model small enough to compile in every test session."""

from collections.abc import Iterator

import jax
import pytest

from phoenix.models.configs import ModelConfig
from phoenix.serving.engine import Phoenix
from tests.phoenix.builders import SMALLEST, begun_params


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
    return SMALLEST


@pytest.fixture(scope="package")
def phoenix(strict_jax: None, tiny: ModelConfig) -> Phoenix:
    """A model whose parameters all have an effect, with all buckets compiled."""
    model = Phoenix(tiny, begun_params(tiny), "begun")
    model.warm_up()
    return model
