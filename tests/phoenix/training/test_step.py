"""Training: models learn a simple taste, and a run that continues from a checkpoint equals an uninterrupted one."""

import gc
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
from jax import Array
from msgspec import structs

from infra.ports.clock import HOUR_MS
from phoenix.data.batches import Batches, Span
from phoenix.data.impressions import JOIN_MS, Log, log_of
from phoenix.data.point_in_time import PointInTimeCounts
from phoenix.data.slates import candidates_of, frozen, history_of, rows_between
from phoenix.features.actions import DWELL_TIME, IS_NEGATIVE
from phoenix.features.inputs import PostInputs
from phoenix.models.configs import ModelConfig, TrainingConfig
from phoenix.models.parameters import digest
from phoenix.serving.engine import Phoenix
from phoenix.serving.loading import load_models
from phoenix.training import checkpoints
from phoenix.training.checkpoints import Card, CheckpointError
from phoenix.training.losses import PIECE, in_pieces
from phoenix.training.step import State, Trainer, ahead, scheduled
from tests.phoenix.builders import some_candidates, some_history
from thunder_ingest.events import ACTION_INDEX, Engagement, Impression, PostCreated, PostDeleted

T0 = 1_700_000_000_000
TASTES, WORDS = ("sail", "cook"), 6
ORBAX_FAILS = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""After a failed read, Orbax leaves an event loop to the garbage collector."""
TRAINING = TrainingConfig(
    batch=16, candidates=4, epochs=3, rate=5e-3, table_rate=0.1, sampled_posts=8, shown_weight=0.0
)
SPAN = Span(T0, T0 + 60 * HOUR_MS, {"click": T0 + 2 * HOUR_MS})


def events(viewers: int = 40, shown: int = 60) -> Iterator[Any]:
    """Odd viewers click odd posts, and even viewers even ones; only the words of a post show which it is."""
    rng = np.random.default_rng(3)
    for post in range(1, 201):
        words = " ".join(f"{TASTES[post % 2]}{rng.integers(WORDS)}" for _ in range(4))
        yield PostCreated(post_id=post, author_id=1_000 + post, at=T0 - HOUR_MS, text=words)
    for viewer in range(1, viewers + 1):
        for hour, post in enumerate(rng.integers(1, 201, shown).tolist()):
            ids = {"user_id": viewer, "post_id": post, "author_id": 1_000 + post}
            yield Impression(**ids, at=T0 + hour * HOUR_MS)
            if post % 2 == viewer % 2:
                yield Engagement(**ids, at=T0 + hour * HOUR_MS + 1, action="click")


@pytest.fixture(scope="module")
def tiny(tiny: ModelConfig) -> ModelConfig:
    """With attention that finds similar positions from the start, a few hundred steps learn to read the history."""
    return replace(tiny, likeness_first=True)


@pytest.fixture(scope="module")
def log() -> Log:
    return log_of(events())


@pytest.fixture(scope="module")
def batches(log: Log, tiny: ModelConfig) -> Batches:
    return Batches(log, SPAN, tiny, TRAINING)


@pytest.fixture(scope="module")
def trainer(batches: Batches, tiny: ModelConfig) -> Trainer:
    return Trainer(tiny, TRAINING, batches.steps)


@pytest.fixture(scope="module")
def card(batches: Batches, tiny: ModelConfig) -> Card:
    return Card(
        step=0, steps=batches.steps, model=tiny, training=TRAINING, data=batches.description, commit="of the test"
    )


def after(trainer: Trainer, batches: Batches, state: State, steps: int) -> State:
    for _, (reached, _losses) in zip(range(steps), trainer.run(state, batches), strict=False):
        state = reached
    return state


def saved(directory: Path, card: Card, state: State) -> Path:
    return checkpoints.save(directory, state, msgspec.structs.replace(card, step=int(state.step)))


@pytest.fixture(scope="module")
def at_5(trainer: Trainer, batches: Batches, card: Card, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("runs"), card, after(trainer, batches, trainer.initial(), 5))


def same_bits(one: Any, other: Any) -> None:
    for mine, its in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(its))


def test_training_learns_the_taste_of_each_viewer_from_the_history(
    log: Log, batches: Batches, trainer: Trainer, tiny: ModelConfig
) -> None:
    """Also for viewers and authors without a row; a model that ignores the history has chance."""
    model = Phoenix(tiny, after(trainer, batches, trainer.initial(), batches.steps).params, "test")
    slates = frozen(log, rows_between(log, SPAN.until_ms - 9 * HOUR_MS, SPAN.until_ms), SPAN.until_ms - 9 * HOUR_MS, 9)
    history = history_of(log, slates, tiny.history, tiny.tokens)._replace(user_id=slates.viewer_id + 10**6)
    candidates = candidates_of(log, PointInTimeCounts(log), slates, tiny.tokens)
    liked = candidates.post_id % 2 == slates.viewer_id[:, np.newaxis] % 2
    strangers = candidates._replace(post_id=candidates.post_id + 10**6, author_id=candidates.author_id + 10**6)
    clicks = model.score(history, strangers)[..., ACTION_INDEX["click"]]
    posts = PostInputs(log.posts.author_id + 10**6, log.posts.tokens, log.posts.video_ms, log.posts.photos)
    similarity = model.embed_users(history) @ model.embed_posts(posts).T
    of_odd = similarity[:, ::2].mean(axis=1) > similarity[:, 1::2].mean(axis=1)  # odd post ids come first
    assert clicks[liked & candidates.mask].mean() > clicks[~liked & candidates.mask].mean() + 0.5
    assert (of_odd == (slates.viewer_id % 2 == 1)).all()


@pytest.mark.parametrize(("falling", "stays_until"), [(1.0, 100), (0.4, 600), (0.0, 1_000)])
def test_a_learning_rate_warms_up_stays_and_decays_to_a_twentieth(falling: float, stays_until: int) -> None:
    rates = [float(scheduled(2.0, 1_000, falling)(step)) for step in range(1_000)]
    assert rates[:100] == pytest.approx([2.0 * step / 100 for step in range(100)])
    assert rates[100:stays_until] == pytest.approx([2.0] * (stays_until - 100))
    fall = 1_000 - stays_until
    assert rates[stays_until:] == pytest.approx([2.0 - 1.9 * step / fall for step in range(fall)], abs=1e-6)


def test_an_interrupted_run_continues_to_the_same_bits(
    trainer: Trainer, log: Log, batches: Batches, card: Card, tiny: ModelConfig, at_5: Path
) -> None:
    uninterrupted = after(trainer, batches, trainer.initial(), batches.steps_per_epoch + 3)  # into the second epoch
    afresh = Batches(log, SPAN, tiny, TRAINING)
    again = Trainer(tiny, TRAINING, afresh.steps)
    resumed = after(again, afresh, checkpoints.resume(at_5, card), batches.steps_per_epoch - 2)
    same_bits(resumed, uninterrupted)


def test_the_mean_of_the_last_steps_is_served_and_continues_from_a_checkpoint(
    log: Log, card: Card, tiny: ModelConfig, tmp_path: Path
) -> None:
    training = replace(TRAINING, epochs=1, mean_of_last=0.5)
    batches = Batches(log, SPAN, tiny, training)
    trainer = Trainer(tiny, training, batches.steps)
    states = [jax.device_get(state) for state, _ in trainer.run(trainer.initial(), batches)]
    last = states[round(batches.steps * 0.5) :]
    expected = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *(state.params for state in last))
    for mine, its in zip(jax.tree.leaves(states[-1].served), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-5, atol=1e-6)

    its_card = msgspec.structs.replace(card, training=training, data=batches.description, steps=batches.steps)
    path = saved(tmp_path, its_card, states[-3])
    same_bits(after(trainer, batches, checkpoints.resume(path, its_card), 2), states[-1])
    at_the_end = saved(tmp_path, its_card, states[-1])
    assert checkpoints.phoenix_of(at_the_end).version.endswith(digest(states[-1].mean))


def test_a_step_equals_one_on_whole_tables_up_to_rounding(
    trainer: Trainer, batches: Batches, tiny: ModelConfig
) -> None:
    """A column that `compact` misses would make a large difference."""
    dense = jax.jit(partial(trainer._moved, model=tiny))
    state, batch = jax.device_get(after(trainer, batches, trainer.initial(), 5)), batches.batch(5)
    (found, losses), (expected, of_dense) = trainer.step(jax.device_put(state), batch), dense(state, batch)
    np.testing.assert_allclose(losses, of_dense, rtol=1e-5)
    for mine, its in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-4, atol=1e-5)


def test_a_step_that_is_not_finite_is_skipped_and_counted(trainer: Trainer, batches: Batches, at_5: Path) -> None:
    before, _ = checkpoints.restore(at_5)
    batch = batches.batch(5)
    broken = batch._replace(ranking=batch.ranking._replace(weights=batch.ranking.weights * np.float32("nan")))
    after_one, losses = trainer.step(jax.tree.map(jnp.copy, before), broken)
    assert np.isnan(losses.ranking)
    same_bits(after_one, before._replace(step=6, skipped=1, skipped_in_a_row=1))
    after_two, _ = trainer.step(after_one, broken)
    same_bits(after_two, before._replace(step=7, skipped=2, skipped_in_a_row=2))
    whole, _ = trainer.step(after_two, batch)
    assert (whole.step, whole.skipped, whole.skipped_in_a_row) == (8, 2, 0)
    expected, _ = trainer.step(jax.tree.map(jnp.copy, before), batch)
    same_bits(whole.params, expected.params)


def test_an_update_that_is_not_finite_is_skipped_despite_finite_losses(
    trainer: Trainer, batches: Batches, at_5: Path
) -> None:
    before, _ = checkpoints.restore(at_5)
    ranking, retrieval = before.optimisers
    negative = jax.tree.map(lambda leaf: leaf - 1 if leaf.ndim == 2 and leaf.shape[1] == 1 else leaf, retrieval)
    before = before._replace(optimisers=(ranking, negative))  # the sums of squares, whose roots AdaGrad takes
    after_one, losses = trainer.step(jax.tree.map(jnp.copy, before), batches.batch(5))
    assert np.isfinite(losses).all()
    same_bits(after_one, before._replace(step=6, skipped=1, skipped_in_a_row=1))


def test_values_that_are_not_finite_are_neither_saved_nor_restored_nor_served(
    at_5: Path, tmp_path: Path, card: Card, tiny: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, _ = checkpoints.restore(at_5)
    (module, of_module), *rest = state.params.ranker.items()
    broken: Any = {
        module: {name: np.copysign(np.float32("inf"), values) for name, values in of_module.items()},
        **dict(rest),
    }
    state = state._replace(params=state.params._replace(ranker=broken))
    with pytest.raises(CheckpointError, match=r"is not written: state\.params\.ranker.* not finite"):
        saved(tmp_path, card, state)
    assert checkpoints.newest(tmp_path) is None
    with pytest.raises(ValueError, match=r"tiny-test cannot be served: \.ranker.* not finite"):
        Phoenix(tiny, state.params, "test")
    with monkeypatch.context() as unchecked:
        unchecked.setattr(checkpoints, "not_finite", lambda _: None)
        path = saved(tmp_path, card, state)
    with pytest.raises(CheckpointError, match=r"step-00000005 cannot be used: state\.params\.ranker.* not finite"):
        checkpoints.phoenix_of(path)


def test_a_restored_checkpoint_has_the_saved_state(trainer: Trainer, batches: Batches, card: Card, at_5: Path) -> None:
    state, found = checkpoints.restore(at_5)
    same_bits(state, after(trainer, batches, trainer.initial(), 5))
    assert found == msgspec.structs.replace(card, step=5, digest=digest(state))


def test_the_served_models_are_the_trained_ones(at_5: Path, tiny: ModelConfig) -> None:
    state, _ = checkpoints.restore(at_5)
    newest, trained = load_models(str(at_5.parent), "nano", seed=1), Phoenix(tiny, state.params, "step5")
    assert newest.version == trained.version
    history, candidates = some_history(tiny, 2, 12), some_candidates(tiny, 2, 5)
    np.testing.assert_array_equal(newest.score(history, candidates), trained.score(history, candidates))


def test_the_newest_checkpoint_is_the_complete_one_of_the_latest_step(at_5: Path, card: Card, tmp_path: Path) -> None:
    state, _ = checkpoints.restore(at_5)
    assert checkpoints.newest(tmp_path / "missing") is None
    paths = [checkpoints.save(tmp_path, state, msgspec.structs.replace(card, step=step)) for step in (7, 30, 200)]
    (tmp_path / "step-00000999.unfinished").mkdir()
    assert checkpoints.newest(tmp_path) == paths[2]
    checkpoints.prune(tmp_path, 2)
    assert sorted(tmp_path.iterdir()) == paths[1:]
    checkpoints.keep_announced(paths[1])
    checkpoints.prune(tmp_path, 1)
    assert sorted(tmp_path.iterdir()) == paths[1:]
    with pytest.raises(CheckpointError, match="step-00000007 was removed by a training run"):
        checkpoints.keep_announced(paths[0])


@ORBAX_FAILS
@pytest.mark.parametrize("lost", ["card.json", "state"])
def test_a_damaged_newest_checkpoint_is_passed_over_and_written_again(
    at_5: Path, card: Card, tmp_path: Path, lost: str, caplog: pytest.LogCaptureFixture
) -> None:
    state, whole = checkpoints.restore(at_5)
    paths = [checkpoints.save(tmp_path, state, msgspec.structs.replace(whole, step=step)) for step in (5, 9)]
    for path in [paths[1] / lost] if lost == "card.json" else filter(Path.is_file, (paths[1] / lost).rglob("*")):
        path.write_bytes(b"")  # a loss of power
    resumed = checkpoints.resume_newest(tmp_path, card)
    assert resumed is not None
    assert resumed[0] == paths[0]
    same_bits(resumed[1], state)
    assert f"{paths[0]} is used instead" in caplog.text
    assert checkpoints.newest_phoenix(tmp_path)[0] == paths[0]
    checkpoints.keep_announced(paths[1])
    checkpoints.save(tmp_path, state, msgspec.structs.replace(whole, step=9))
    assert checkpoints.newest_phoenix(tmp_path)[0] == paths[1]
    assert (paths[1] / "announced").exists()
    gc.collect()


def test_if_all_checkpoints_are_damaged_the_newest_is_named(copy: Path) -> None:
    (copy / "card.json").unlink()
    with pytest.raises(CheckpointError, match="step-00000005 is no checkpoint"):
        checkpoints.newest(copy.parent)
    with pytest.raises(CheckpointError, match="step-00000005 is no checkpoint"):
        checkpoints.phoenix_of(copy.parent)


@pytest.fixture
def copy(at_5: Path, tmp_path: Path) -> Iterator[Path]:
    yield Path(shutil.copytree(at_5, tmp_path / at_5.name))
    gc.collect()  # collect the event loops that Orbax left here, not during another test


@ORBAX_FAILS
def test_a_damaged_checkpoint_is_refused_and_never_gives_other_numbers(copy: Path) -> None:
    """For each file, truncated or changed; Orbax does not read all bytes."""
    files = [path for path in sorted((copy / "state").rglob("*")) if path.is_file()]
    refused = set()
    for path in files:
        whole = path.read_bytes()
        middle = len(whole) // 2
        for damaged in (whole[:middle], whole[:middle] + bytes(byte ^ 255 for byte in whole[middle : middle + 9])):
            path.write_bytes(damaged + whole[len(damaged) :] if len(damaged) > middle else damaged)
            try:
                assert digest(checkpoints.restore(copy)[0]) == checkpoints.card_of(copy).digest
            except CheckpointError:
                refused.add(path)
        path.write_bytes(whole)
    assert max(files, key=lambda path: path.stat().st_size) in refused
    checkpoints.restore(copy)


def test_a_checkpoint_with_other_numbers_than_were_written_is_refused(copy: Path) -> None:
    raw = (copy / "card.json").read_text()
    (copy / "card.json").write_text(raw.replace(checkpoints.card_of(copy).digest, "00000000"))
    with pytest.raises(CheckpointError, match="does not have the digest"):
        checkpoints.restore(copy)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"format": 99}', "format 99; this program reads 4"),
        ('{"format": 4}', "damaged"),
        (None, "is no checkpoint"),
    ],
)
def test_an_invalid_card_is_refused(copy: Path, text: str | None, reason: str) -> None:
    (copy / "card.json").unlink()
    if text is not None:
        (copy / "card.json").write_text(text)
    with pytest.raises(CheckpointError, match=reason):
        checkpoints.restore(copy)


@ORBAX_FAILS
def test_a_checkpoint_of_other_models_is_refused(copy: Path) -> None:
    raw = (copy / "card.json").read_text()
    (copy / "card.json").write_text(raw.replace('"dim": 32', '"dim": 64'))
    with pytest.raises(CheckpointError, match="models are not those of this program"):
        checkpoints.restore(copy)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"training": replace(TRAINING, seed=1)}, "training.seed is 0, not 1"),
        ({"steps": 1}, "steps is"),
        ({"data": {}}, "data.since_ms"),
    ],
)
def test_a_run_does_not_continue_from_the_checkpoint_of_another_run(
    at_5: Path, card: Card, change: dict[str, Any], reason: str
) -> None:
    with pytest.raises(CheckpointError, match=f"is of another run: {reason}"):
        checkpoints.resume(at_5, msgspec.structs.replace(card, **change))


def test_a_checkpoint_has_a_card_for_readers(at_5: Path, card: Card) -> None:
    text = (at_5 / "card.md").read_text()
    assert "# tiny, step 5 of" in text
    assert "| labelled_since | click 1700007200000 |" in text
    assert card.commit in text


def test_a_batch_depends_on_the_seed_and_the_step_alone(log: Log, batches: Batches, tiny: ModelConfig) -> None:
    afresh = Batches(log, SPAN, tiny, TRAINING)
    for step in (batches.steps_per_epoch + 1, 0, 2):
        for mine, its in zip(jax.tree.leaves(batches.batch(step)), jax.tree.leaves(afresh.batch(step)), strict=True):
            np.testing.assert_array_equal(mine, its)
    other = Batches(log, SPAN, tiny, replace(TRAINING, seed=1))
    assert (batches.batch(0).history.user != other.batch(0).history.user).any()


def test_training_uses_no_event_after_the_span(tiny: ModelConfig) -> None:
    """A log that ends there gives the same batches and the same description."""
    until = T0 + 30 * HOUR_MS
    span = Span(T0, until, {})
    taken_back = next(event for event in events() if isinstance(event, Engagement) and event.at > T0 + 9 * HOUR_MS)
    later = [
        PostCreated(post_id=5_000, author_id=1, at=until, text="later"),
        PostCreated(post_id=1, author_id=1_001, at=until, text="an edit"),
        PostDeleted(post_id=3, at=until),
        structs.replace(taken_back, at=until, undo=True),
        *shown_late(until),
    ]
    cut_off = log_of(event for event in events() if event.at < until)
    one, other = (Batches(each, span, tiny, TRAINING) for each in (log_of([*events(), *later]), cut_off))
    assert one.description == other.description
    for step in range(one.steps):
        for mine, its in zip(jax.tree.leaves(one.batch(step)), jax.tree.leaves(other.batch(step)), strict=True):
            np.testing.assert_array_equal(mine, its)


def shown_late(until: int) -> list[Impression]:
    """An impression of an unpublished post at the end of the span, on a new surface."""
    return [Impression(user_id=1, post_id=6_000, author_id=1, at=until, surface="another")]


def test_impressions_of_the_last_half_hour_are_no_examples_whatever_their_outcome(log: Log, tiny: ModelConfig) -> None:
    until = T0 + 30 * HOUR_MS
    ids: dict[str, Any] = {"user_id": 1, "post_id": 7_000, "author_id": 1}

    def examples(at: int, *outcomes: int) -> int:
        done = [Engagement(**ids, action="favorite", at=each) for each in outcomes]
        extended = log_of([*events(), Impression(**ids, at=at), *done])
        return len(Batches(extended, Span(T0, until, {}), tiny, TRAINING).rows)

    without = len(Batches(log, Span(T0, until, {}), tiny, TRAINING).rows)
    late, early = until - JOIN_MS, until - JOIN_MS - 1
    assert examples(late) == examples(late, late + 1) == examples(late, until + 1) == without
    assert examples(early) == examples(early, early + 1) == examples(early, until - 1) == without + 1


def test_an_action_that_the_log_does_not_record_yet_is_no_negative_label(log: Log, tiny: ModelConfig) -> None:
    until = T0 + 2 * HOUR_MS
    early = Batches(log, Span(T0, until, {"click": until}), tiny, TRAINING)
    weights = early.batch(0).ranking.weights
    assert not weights[..., 4].any()
    assert weights[..., 0].any()


def test_impressions_before_the_span_come_first_and_once_with_earlier(log: Log, tiny: ModelConfig) -> None:
    since, until = T0 + 30 * HOUR_MS, T0 + 60 * HOUR_MS
    span, everything = Span(since, until, {"click": T0 + 9 * HOUR_MS}), Span(T0, until, {"click": T0 + 9 * HOUR_MS})
    alone = Batches(log, span, tiny, TRAINING)
    assert (log.at[alone.rows] >= since).all()
    one_by_one = replace(TRAINING, batch=1, candidates=1, epochs=1, complete_passes=2)
    batches = Batches(log, span._replace(earlier=True), tiny, one_by_one)
    np.testing.assert_array_equal(batches.rows, Batches(log, everything, tiny, TRAINING).rows)
    assert batches.steps == len(batches.rows) + len(alone.rows)
    recorded = [bool(batches.batch(step).ranking.weights[..., 4].any()) for step in range(batches.steps)]
    assert not all(recorded[: -2 * len(alone.rows)])
    assert all(recorded[-2 * len(alone.rows) :])


def test_a_span_without_impressions_is_refused_despite_earlier_ones(log: Log, tiny: ModelConfig) -> None:
    until = int(log.at.max()) + HOUR_MS
    with pytest.raises(ValueError, match="no impression in this span"):
        Batches(log, Span(until - 1, until, {}, earlier=True), tiny, TRAINING)


def test_every_impression_is_an_example_of_an_epoch(log: Log, tiny: ModelConfig) -> None:
    one_by_one = Batches(log, SPAN, tiny, replace(TRAINING, batch=1, epochs=1, complete_passes=1))
    count = sum(one_by_one.batch(step).ranking.weights[..., 0].sum() for step in range(one_by_one.steps))
    assert count == len(one_by_one.rows)


def test_examples_with_complete_labels_come_last_and_more_often(log: Log, tiny: ModelConfig) -> None:
    twice = Batches(log, SPAN, tiny, replace(TRAINING, batch=1, epochs=1, complete_passes=2))
    known = [twice.batch(step).ranking.weights[..., [0, 4]].sum(axis=(0, 1)) for step in range(twice.steps)]
    of_favorite, of_click = np.array(known).T
    early = of_click < of_favorite
    assert early.any()
    assert not early[np.argmin(early) :].any()
    complete = int((log.at[twice.rows] >= T0 + 2 * HOUR_MS).sum())
    assert of_click.sum() == 2 * complete
    assert of_favorite.sum() == len(twice.rows) + complete


def test_sampled_negatives_are_posts_of_other_viewers_with_labels_0(log: Log, tiny: ModelConfig) -> None:
    plain, sampled = (Batches(log, SPAN, tiny, replace(TRAINING, negative_weight=each)) for each in (0.0, 0.5))
    for step in range(5):
        without, batch = plain.batch(step), sampled.batch(step)
        shown, size = TRAINING.candidates, 2 * TRAINING.candidates
        assert batch.candidates.post.shape[1] == size
        for mine, its in zip(jax.tree.leaves(batch.ranking), jax.tree.leaves(without.ranking), strict=True):
            np.testing.assert_array_equal(mine[:, :shown], its)
        labels, weights = (column[:, shown:] for column in batch.ranking)
        assert not labels.any()
        assert set(np.unique(weights)) == {0.0, 0.5}
        assert not weights[..., IS_NEGATIVE].any()
        assert not weights[..., DWELL_TIME].any()
        theirs, mine = batch.candidates.post[:, shown:], batch.candidates.post[:, :shown]
        asked = weights[..., 0] > 0
        assert not ((theirs[:, :, None] == mine[:, None]).all(axis=-1).any(axis=-1) & asked).any()
        np.testing.assert_array_equal(theirs[asked], np.roll(mine, 1, axis=0)[asked])


def test_the_description_has_the_collisions_of_each_table(batches: Batches, tiny: ModelConfig) -> None:
    collisions = batches.description["collisions"]
    assert set(collisions) == {"viewers", "posts", "authors", "tokens"}
    assert collisions["tokens"]["one_shared"] == collisions["tokens"]["all_shared"]


def test_the_posts_of_the_retrieval_loss_include_the_positive_ones(log: Log, tiny: ModelConfig) -> None:
    few = Batches(log, SPAN, tiny, replace(TRAINING, batch=4, sampled_posts=10, positive_weights={"click": 1.0}))
    assert few.batch(0).posts.author.shape[0] == 4 * 4 + 10
    for step in range(10):
        batch = few.batch(step)
        wanted = batch.retrieval.weights == 1.0
        found = batch.posts.author[batch.retrieval.post[wanted]]
        np.testing.assert_array_equal(found, batch.candidates.author[wanted])
        assert np.isfinite(batch.retrieval.log_q[batch.retrieval.post[wanted]]).all()


def test_a_span_without_impressions_is_refused(log: Log, tiny: ModelConfig) -> None:
    with pytest.raises(ValueError, match="no impression in this span"):
        Batches(log, Span(T0 - HOUR_MS, T0, {}), tiny, TRAINING)


def test_post_dropout_removes_its_share_of_ids_and_negatives_come_last(log: Log, tiny: ModelConfig) -> None:
    usual = Batches(log, SPAN, tiny, TRAINING).batch(3)
    asked = replace(TRAINING, post_dropout=0.5, negative_weight=1.0)
    batch = Batches(log, SPAN, tiny, asked).batch(3)
    assert batch.candidates.post.shape[1] == 2 * usual.candidates.post.shape[1]
    assert (batch.history.user == usual.history.user).all()
    for ids, author in ((batch.history.post, batch.history.author), (batch.candidates.post, batch.candidates.author)):
        kept = ids.any(axis=-1)[author.any(axis=-1)].mean()
        assert 0.4 < kept < 0.6


def test_history_dropout_masks_its_share_of_positions(log: Log, batches: Batches, tiny: ModelConfig) -> None:
    whole = batches.batch(3).history
    part = Batches(log, SPAN, tiny, replace(TRAINING, history_dropout=0.25)).batch(3).history
    assert not (part.mask & ~whole.mask).any()
    assert 0.2 < 1 - part.mask.sum() / whole.mask.sum() < 0.3
    np.testing.assert_array_equal(part.post, whole.post)


def test_a_step_has_twice_the_operations_for_twice_the_slates(log: Log, trainer: Trainer, tiny: ModelConfig) -> None:
    halves = (Batches(log, SPAN, tiny, replace(TRAINING, batch=size, sampled_posts=0)) for size in (16, 8))
    whole, half = (trainer.flops(batches.batch(0)) for batches in halves)
    assert whole > 1.9 * half > 0


@pytest.mark.parametrize("slates", [1, PIECE, 3 * PIECE, 3 * PIECE + 1])
def test_a_batch_in_pieces_gives_the_output_and_gradients_of_the_whole_batch(slates: int) -> None:
    rng = np.random.default_rng(slates)
    inputs = {"x": jnp.asarray(rng.normal(size=(slates, 4, 3)), jnp.float32)}, jnp.asarray(rng.normal(size=slates))

    def model(weights: Array, of_slate: dict[str, Array], more: Array) -> Array:
        return jnp.tanh(of_slate["x"] @ weights) * more[:, None, None]

    def whole(weights: Array) -> Array:
        return model(weights, *inputs)

    expected, backwards = jax.vjp(whole, weights := jnp.asarray(rng.normal(size=(3, 2)), jnp.float32))
    found, found_backwards = jax.vjp(lambda weights: in_pieces(partial(model, weights), *inputs), weights)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    (ours,), (theirs,) = found_backwards(expected), backwards(expected)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_prefetching_keeps_the_order_and_raises_an_error_when_its_step_is_due() -> None:
    def make(step: int) -> int:
        if step == 3:
            raise ValueError("no batch")
        return step * step

    assert list(ahead(make, range(4, 7))) == [16, 25, 36]
    assert list(ahead(make, range(0))) == []
    made = ahead(make, range(1, 9))
    assert [next(made), next(made)] == [1, 4]
    with pytest.raises(ValueError, match="no batch"):
        next(made)


def test_prefetching_makes_one_batch_ahead_and_ends_its_thread_with_the_iterator() -> None:
    threads, second = set[threading.Thread](), threading.Event()

    def make(step: int) -> int:
        threads.add(threading.current_thread())
        if step == 1:
            second.set()
        return step

    made = ahead(make, range(9))
    assert next(made) == 0
    assert second.wait(60)  # before the consumer takes it
    made.close()
    (thread,) = threads
    assert thread is not threading.current_thread()
    assert not thread.is_alive()


def test_a_run_that_is_closed_early_leaves_no_thread(trainer: Trainer, batches: Batches) -> None:
    running = trainer.run(trainer.initial(), batches)
    next(running)
    assert any(thread.name.startswith("ahead") for thread in threading.enumerate())
    running.close()
    assert not any(thread.name.startswith("ahead") for thread in threading.enumerate())
