import numpy as np
import pytest

from phoenix.features.inputs import (
    LOG_BUCKETS,
    VIDEO_BUCKETS,
    candidate_rows,
    history_rows,
    log_bucket,
    padded,
    post_rows,
)
from phoenix.models.configs import CONFIGS, NANO, ModelConfig, config_named
from tests.phoenix.builders import picked, some_candidates, some_history, some_posts


@pytest.mark.parametrize(
    ("value", "bucket"),
    [(-5, 0), (0, 0), (59_999, 0), (60_000, 1), (119_999, 1), (120_000, 2), (240_000, 3), (2**62, LOG_BUCKETS - 1)],
)
def test_each_doubling_has_a_bucket(value: int, bucket: int) -> None:
    assert log_bucket(np.array([value]), 60_000).tolist() == [bucket]


def test_video_lengths_have_a_bucket_for_each_quarter_of_a_doubling(tiny: ModelConfig) -> None:
    lengths = np.array([0, 1, 1_999, 2_000, 2_378, 2_379, 4_000, 2**31 - 1], np.int32)
    posts = some_posts(tiny, len(lengths))._replace(video_ms=lengths)
    assert post_rows(tiny, posts).video.tolist() == [0, 1, 1, 2, 2, 3, 6, VIDEO_BUCKETS - 1]


def test_the_share_of_a_video_that_was_watched_is_in_eighths_up_to_twice(tiny: ModelConfig) -> None:
    dwell_ms, video_ms = [0, 900, 1, 999, 1_000, 4_000, 8_000, 16_000, 2**31], [8_000, 0, *[8_000] * 7]
    history = some_history(tiny, 1, len(dwell_ms))._replace(
        dwell_ms=np.array([dwell_ms], np.float32), video_ms=np.array([video_ms], np.int32)
    )
    assert history_rows(tiny, history).watched[0, -len(dwell_ms) :].tolist() == [0, 0, 1, 1, 2, 5, 9, 17, 17]


def test_the_hour_and_the_weekday_of_a_request_are_those_of_utc(tiny: ModelConfig) -> None:
    times = ["2026-12-06T23:59:59", "2026-12-07T00:00:00", "2026-12-07T13:00:00"]  # a Sunday and a Monday
    asked_at = np.array([times], "datetime64[ms]").astype(np.int64)
    rows = candidate_rows(tiny, some_candidates(tiny, 1, 3)._replace(asked_at=asked_at), 0, 3)
    assert rows.hour.tolist() == [[24, 1, 14]]
    assert rows.weekday.tolist() == [[7, 1, 1]]


def test_a_long_history_keeps_its_newest_positions(tiny: ModelConfig) -> None:
    history = some_history(tiny, 2, 30)
    newest = type(history)(history.user_id, *(column[:, -tiny.history :] for column in history[1:]))
    for whole, end in zip(history_rows(tiny, history), history_rows(tiny, newest), strict=True):
        assert (whole == end).all()


def test_a_short_history_is_padded_on_the_left(tiny: ModelConfig) -> None:
    rows = history_rows(tiny, some_history(tiny, 2, 5))
    assert rows.mask[0].tolist() == [False] * 7 + [True] * 5
    assert not rows.post[:, :7].any()
    assert rows.post[:, 7:].all()


def test_an_empty_history_is_padded_to_its_full_shape(tiny: ModelConfig) -> None:
    rows = history_rows(tiny, some_history(tiny, 3, 0))
    assert rows.mask.shape == (3, tiny.history)
    assert not rows.mask.any()


def test_texts_are_cut_or_padded_to_the_tokens_of_the_configuration(tiny: ModelConfig) -> None:
    posts = some_posts(tiny, 3)
    longer = posts._replace(tokens=np.concatenate([posts.tokens, posts.tokens], axis=1))
    shorter = posts._replace(tokens=posts.tokens[:, :2])
    assert (post_rows(tiny, longer).tokens == post_rows(tiny, posts).tokens).all()
    assert post_rows(tiny, shorter).tokens.shape == (3, tiny.tokens)
    assert not post_rows(tiny, shorter).tokens[:, 2:].any()


def test_a_chunk_of_candidates_has_the_rows_of_these_candidates_alone(tiny: ModelConfig) -> None:
    candidates = some_candidates(tiny, 2, 11)
    chunk = candidate_rows(tiny, candidates, 8, 4)
    alone = candidate_rows(tiny, picked(candidates, [8, 9, 10]), 0, 4)
    for one, other in zip(chunk, alone, strict=True):
        assert (one == other).all()
    assert not chunk.post[:, 3].any()


def test_a_batch_is_padded_at_its_end(tiny: ModelConfig) -> None:
    rows = padded(history_rows(tiny, some_history(tiny, 3, 4)), 8)
    assert all(len(column) == 8 for column in rows)
    assert not rows.mask[3:].any()


def test_the_error_for_an_unknown_configuration_lists_the_valid_ones() -> None:
    with pytest.raises(ValueError, match="no model configuration 'huge'; there are nano, small, base, large"):
        config_named("huge")
    assert config_named("nano") is NANO
    assert all(name == config.name for name, config in CONFIGS.items())


@pytest.mark.parametrize("wrong", [{"kv_heads": 3}, {"head_dim": 7}, {"batch_buckets": ()}, {"post_buckets": (4, 2)}])
def test_inconsistent_sizes_are_refused(wrong: dict[str, object]) -> None:
    sizes = {name: getattr(NANO, name) for name in NANO.__dataclass_fields__}
    with pytest.raises(ValueError, match="nano: "):
        ModelConfig(**{**sizes, **wrong})
