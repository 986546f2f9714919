import numpy as np

from feed_worker.candidates.model_inputs import candidates_of, history_of
from phoenix.models.configs import NANO
from tests.feed_worker.builders import MINUTE_MS, candidates_in, positions_of, post, query, store_of, viewer
from thunder_ingest.events import ACTION_INDEX, PostCounts
from thunder_ingest.events.text import token_hashes

STORE = store_of(post(1, text="one two"), post(2, text=" ".join(["word"] * 60)), post(3))


def test_a_history_is_right_aligned_and_ends_with_the_newest() -> None:
    history = history_of([query(viewer(liked=[1, 2])), query(viewer(liked=[3]))], STORE, NANO)
    assert history.post_id.shape == (2, NANO.history)
    assert history.post_id[0, -2:].tolist() == [1, 2]
    assert history.mask.sum(axis=1).tolist() == [2, 1]
    assert history.age_ms[0, -2:].tolist() == [2 * MINUTE_MS, MINUTE_MS]
    assert history.age_ms[0, 0] == 0


def test_of_a_long_history_the_newest_positions_are_read() -> None:
    positions = positions_of(range(1, NANO.history + 11))
    history = history_of([query(viewer(positions=positions))], STORE, NANO)
    assert history.post_id[0, [0, -1]].tolist() == [11, NANO.history + 10]


def test_actions_become_a_column_each() -> None:
    history = history_of([query(viewer(liked=[1]))], STORE, NANO)
    assert np.flatnonzero(history.actions[0, -1]).tolist() == [ACTION_INDEX["favorite"]]
    assert not history.actions[0, 0].any()


def test_a_history_has_the_text_of_posts_that_are_stored_cut_to_what_the_model_reads() -> None:
    history = history_of([query(viewer(liked=[404, 1, 2]))], STORE, NANO)
    assert history.tokens.shape == (1, NANO.history, NANO.tokens)
    assert not history.tokens[0, -3].any()
    assert history.tokens[0, -2, :2].tolist() == token_hashes("one two").tolist()
    assert history.tokens[0, -1].all()


def test_a_viewer_without_a_history_has_a_mask_of_nothing() -> None:
    history = history_of([query()], STORE, NANO)
    assert not history.mask.any()
    assert history.tokens.shape == (1, NANO.history, NANO.tokens)


def test_candidates_of_a_batch_are_padded_to_the_most() -> None:
    found = [candidates_in(STORE, 1, 2, 3), candidates_in(STORE, 2)]
    inputs = candidates_of([query(surface="home"), query()], found, NANO)
    assert inputs.post_id.tolist() == [[1, 2, 3], [2, 0, 0]]
    assert inputs.mask.tolist() == [[True, True, True], [True, False, False]]
    assert inputs.age_ms.tolist() == [[MINUTE_MS] * 3, [MINUTE_MS, 0, 0]]
    assert inputs.tokens.shape == (2, 3, NANO.tokens)
    assert inputs.totals.shape == (2, 3, 20)
    assert inputs.surface[0] != inputs.surface[1] == 0


def test_a_candidate_is_asked_about_with_what_has_been_counted_of_it_so_far() -> None:
    counted = store_of(post(1), post(2))
    counted.apply_counts([PostCounts(post_id=2, at=1, totals=[*range(20)])])
    inputs = candidates_of([query()], [candidates_in(counted, 1, 2)], NANO)
    assert inputs.totals[0].tolist() == [[0] * 20, [*range(20)]]
