import re
from collections.abc import Iterator
from dataclasses import replace

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoenix.models.configs import ModelConfig
from phoenix.models.parameters import initial_params
from phoenix.serving.engine import Phoenix, aligned, chunks
from tests.phoenix.builders import some_candidates, some_history, some_posts

COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def compilations() -> Iterator[list[str]]:
    """All compilations of JAX during a test."""
    seen: list[str] = []

    def note(event: str, duration_secs: float, **_: str | int) -> None:
        if event == COMPILED:
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield seen
    jax.monitoring.unregister_event_duration_listener(note)


def test_the_fixture_records_a_compilation(compilations: list[str]) -> None:
    jax.jit(lambda x: x * 3.5)(np.float32(2.0))
    assert compilations


def test_no_request_size_compiles_after_the_warm_up(phoenix: Phoenix, compilations: list[str]) -> None:
    traces = phoenix.traces
    for viewers, count, positions in [(1, 1, 0), (2, 4, 3), (3, 5, 12), (4, 16, 40), (5, 17, 1), (11, 63, 12)]:
        history = some_history(phoenix.config, viewers, positions)
        phoenix.score(history, some_candidates(phoenix.config, viewers, count))
        phoenix.embed_users(history)
        phoenix.embed_posts(some_posts(phoenix.config, count))
    assert phoenix.traces == traces
    assert compilations == []


def test_there_are_as_many_traces_as_buckets(phoenix: Phoenix) -> None:
    config = phoenix.config
    batches, counts, posts = map(len, (config.batch_buckets, config.candidate_buckets, config.post_buckets))
    assert phoenix.traces == 2 * batches + 2 * batches * counts + posts


def test_a_warm_up_compiles_only_the_given_parts_and_reports_each_bucket(tiny: ModelConfig) -> None:
    model = Phoenix.seeded(tiny, seed=7)
    lines: list[str] = []
    model.warm_up(lines.append, parts=("embed",))
    assert lines == ["embeddings, 4 posts", "embeddings, 32 posts"]
    assert model.traces == 2


def test_a_model_of_the_same_configuration_compiles_nothing(
    phoenix: Phoenix, tiny: ModelConfig, compilations: list[str]
) -> None:
    alone, beside = (Phoenix.seeded(tiny, seed=8) for _ in range(2))
    beside.compiled_with(phoenix)
    beside.warm_up()
    assert compilations == []
    assert beside.traces == 0
    history, candidates, posts = some_history(tiny, 3, 12), some_candidates(tiny, 3, 9), some_posts(tiny, 9)
    for method, given_ in (("embed_users", (history,)), ("embed_posts", (posts,)), ("score", (history, candidates))):
        its, own, other = (getattr(model, method)(*given_) for model in (beside, alone, phoenix))
        np.testing.assert_array_equal(its, own)
        assert (its != other).any()


def test_a_model_of_another_configuration_compiles_its_own_functions(phoenix: Phoenix, tiny: ModelConfig) -> None:
    wide = Phoenix.seeded(replace(tiny, embed_dim=32), seed=7).compiled_with(phoenix)
    assert wide.embed_posts(some_posts(wide.config, 3)).shape == (3, 32)
    assert wide.traces == 1


def test_concurrent_chunks_compile_their_bucket_once(tiny: ModelConfig) -> None:
    cold = Phoenix.seeded(replace(tiny, candidate_buckets=(4,)), seed=7)
    cold.score(some_history(tiny, 1, 12), some_candidates(tiny, 1, 64))
    assert cold.traces == 3


def test_a_chunk_that_fails_fails_the_request(phoenix: Phoenix, tiny: ModelConfig) -> None:
    candidates = some_candidates(tiny, 1, 40)
    with pytest.raises(TypeError, match="called with"):
        phoenix.score(some_history(tiny, 1, 12), candidates._replace(post_id=candidates.post_id[:, :, None]))


def test_a_model_without_a_warm_up_gives_the_same_vectors(phoenix: Phoenix, tiny: ModelConfig) -> None:
    posts = some_posts(tiny, 3)
    cold = Phoenix.seeded(tiny, seed=7)
    assert (cold.embed_posts(posts) == phoenix.embed_posts(posts)).all()


def test_a_request_may_have_no_viewers_no_candidates_or_no_posts(phoenix: Phoenix) -> None:
    config = phoenix.config
    assert phoenix.score(some_history(config, 0, 3), some_candidates(config, 0, 3)).shape == (0, 3, 19)
    assert phoenix.score(some_history(config, 2, 3), some_candidates(config, 2, 0)).shape == (2, 0, 19)
    assert phoenix.embed_users(some_history(config, 0, 3)).shape == (0, config.embed_dim)
    assert phoenix.embed_posts(some_posts(config, 0)).shape == (0, config.embed_dim)


def test_masked_candidates_have_score_0(phoenix: Phoenix) -> None:
    candidates = some_candidates(phoenix.config, 3, 20)
    candidates.mask[0, 4:] = candidates.mask[1, :] = candidates.mask[2, ::2] = False
    scores = phoenix.score(some_history(phoenix.config, 3, 12), candidates)
    assert (scores[candidates.mask] > 0).all()
    assert not scores[~candidates.mask].any()


def test_the_seed_determines_version_and_vectors(tiny: ModelConfig) -> None:
    one, again, other = (Phoenix.seeded(tiny, seed) for seed in (7, 7, 8))
    posts = some_posts(tiny, 3)
    assert again.version == one.version
    assert (again.embed_posts(posts) == one.embed_posts(posts)).all()
    assert other.version != one.version
    assert not np.allclose(other.embed_posts(posts), one.embed_posts(posts), rtol=1e-3)


@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (1_000, 64)])
def test_aligned_parameters_are_equal_and_jax_does_not_copy_them(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).standard_normal(shape, np.float32)
    copy = aligned(values)
    np.testing.assert_array_equal(copy, values)
    if jax.default_backend() == "cpu":
        assert jax.device_put(copy).unsafe_buffer_pointer() == copy.ctypes.data


def test_the_version_names_configuration_seed_and_parameters(tiny: ModelConfig) -> None:
    assert re.fullmatch(r"tiny-seed7-[0-9a-f]{8}", Phoenix.seeded(tiny, seed=7).version)


def test_one_changed_parameter_changes_the_version(tiny: ModelConfig) -> None:
    params, unchanged = initial_params(tiny, 7), Phoenix.seeded(tiny, seed=7)
    assert Phoenix(tiny, params, "seed7").version == unchanged.version
    np.asarray(params.two_tower["two_tower"]["text_share"])[...] += np.float32(1e-3)
    assert Phoenix(tiny, params, "seed7").version != unchanged.version


def test_configurations_are_named_or_given(tiny: ModelConfig) -> None:
    with pytest.raises(ValueError, match="no model configuration 'gigantic'"):
        Phoenix.seeded("gigantic", seed=7)
    assert Phoenix.seeded(replace(tiny, name="mine"), seed=7).version.startswith("mine-")


@given(st.integers(0, 5_000), st.lists(st.integers(1, 700), min_size=1, max_size=4, unique=True))
def test_chunks_cover_everything_once_and_fit_their_buckets(count: int, sizes: list[int]) -> None:
    cut = list(chunks(count, sorted(sizes)))
    assert [thing for start, stop, _ in cut for thing in range(start, stop)] == list(range(count))
    assert all(0 < stop - start <= bucket and bucket in sizes for start, stop, bucket in cut)
    assert all(stop - start == bucket for start, stop, bucket in cut[:-1])
    assert all(bucket <= 2 * (stop - start) or bucket == min(sizes) for start, stop, bucket in cut)


@pytest.mark.parametrize("size", [1, 128, 1_024])
def test_a_request_of_a_bucket_s_size_takes_that_bucket(size: int) -> None:
    assert list(chunks(size, (1, 128, 1_024))) == [(0, size, size)]
