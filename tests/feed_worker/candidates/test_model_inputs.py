import numpy as np

from feed_worker.candidates.model_inputs import candidates_of, history_of
from infra.ports.clock import MINUTE_MS
from phoenix.models.configs import NANO
from tests.feed_worker.builders import candidates_in, positions_of, post, query, store_of, viewer
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


def test_a_long_history_is_cut_to_its_newest_positions() -> None:
    positions = positions_of(range(1, NANO.history + 11))
    history = history_of([query(viewer(positions=positions))], STORE, NANO)
    assert history.post_id[0, [0, -1]].tolist() == [11, NANO.history + 10]


def test_actions_become_a_column_each() -> None:
    history = history_of([query(viewer(liked=[1]))], STORE, NANO)
    assert np.flatnonzero(history.actions[0, -1]).tolist() == [ACTION_INDEX["favorite"]]
    assert not history.actions[0, 0].any()


def test_a_history_has_the_tokens_of_stored_posts_cut_to_the_length_of_the_model() -> None:
    history = history_of([query(viewer(liked=[404, 1, 2]))], STORE, NANO)
    assert history.tokens.shape == (1, NANO.history, NANO.tokens)
    assert not history.tokens[0, -3].any()
    assert history.tokens[0, -2, :2].tolist() == token_hashes("one two").tolist()
    assert history.tokens[0, -1].all()


def test_a_viewer_without_history_has_an_empty_mask() -> None:
    history = history_of([query()], STORE, NANO)
    assert not history.mask.any()
    assert history.tokens.shape == (1, NANO.history, NANO.tokens)


def test_candidates_of_a_batch_are_padded_to_the_largest_query() -> None:
    found = [candidates_in(STORE, 1, 2, 3), candidates_in(STORE, 2)]
    inputs = candidates_of([query(surface="home"), query()], found, NANO)
    assert inputs.post_id.tolist() == [[1, 2, 3], [2, 0, 0]]
    assert inputs.mask.tolist() == [[True, True, True], [True, False, False]]
    assert inputs.age_ms.tolist() == [[MINUTE_MS] * 3, [MINUTE_MS, 0, 0]]
    assert inputs.tokens.shape == (2, 3, NANO.tokens)
    assert inputs.totals.shape == (2, 3, 20)
    assert inputs.surface[0] != inputs.surface[1] == 0


def test_a_candidate_has_its_current_counts_as_input() -> None:
    counted = store_of(post(1), post(2))
    counted.apply_counts([PostCounts(post_id=2, at=1, totals=[*range(20)])])
    inputs = candidates_of([query()], [candidates_in(counted, 1, 2)], NANO)
    assert inputs.totals[0].tolist() == [[0] * 20, [*range(20)]]
