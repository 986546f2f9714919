import numpy as np
import pytest

from feed_worker.candidates.columns import ColumnError, concat
from feed_worker.framework.request_run import NO_CANDIDATES
from tests.feed_worker.builders import NOW_MS, candidates_in, post, predicted, store_of

STORE = store_of(
    post(1, created_at=NOW_MS - 3),
    post(2, created_at=NOW_MS - 2),
    post(3, created_at=NOW_MS - 2),
    post(4, 60, "repost", source_post_id=1, source_author_id=50),
)


def test_concatenated_candidates_keep_their_order_and_their_source() -> None:
    joined = concat([NO_CANDIDATES, candidates_in(STORE, 2, 1, source="thunder"), candidates_in(STORE, 3)])
    assert joined.posts.post_id.tolist() == [2, 1, 3]
    assert joined.source.tolist() == [0, 0, 2]


def test_empty_candidates_concatenate_to_empty_candidates() -> None:
    assert len(concat([NO_CANDIDATES, NO_CANDIDATES])) == 0


def test_taking_rows_takes_every_column_along() -> None:
    found = predicted(candidates_in(STORE, 1, 2, 3), {"click": 0.1}, {"click": 0.2}, {"click": 0.3})
    taken = found.take(np.array([2, 0]))
    assert taken.posts.post_id.tolist() == [3, 1]
    assert taken.predictions[:, 4].tolist() == pytest.approx([0.3, 0.1])
    assert len(taken.related.source_author_id) == len(taken.weighted) == 2


def test_a_mask_that_keeps_all_copies_nothing() -> None:
    found = candidates_in(STORE, 1, 2)
    assert found.take(np.array([True, True])) is found


@pytest.mark.parametrize(
    "column",
    [np.zeros(3), np.zeros(2, np.float32), np.zeros((2, 1))],
    ids=["too long", "of another type", "of another shape"],
)
def test_a_column_that_does_not_fit_is_refused(column: np.ndarray) -> None:
    with pytest.raises(ColumnError, match="weighted"):
        candidates_in(STORE, 1, 2).with_columns(weighted=column)


def test_related_columns_that_do_not_fit_are_refused() -> None:
    one, two = candidates_in(STORE, 1), candidates_in(STORE, 1, 2)
    with pytest.raises(ColumnError, match="related"):
        one.with_related(two.related)


def test_the_original_of_a_repost_is_its_source_and_of_any_other_post_the_post_itself() -> None:
    found = candidates_in(STORE, 4, 2)
    assert found.original_id.tolist() == [1, 2]
    assert found.original_author_id.tolist() == [50, 50]
    assert found.posts.author_id.tolist() == [60, 50]


def test_ties_rank_by_time_then_by_id_in_any_order_of_arrival() -> None:
    for arrival in ((1, 2, 3), (3, 2, 1)):
        found = candidates_in(STORE, *arrival)
        assert found.posts.post_id[found.ranking()].tolist() == [3, 2, 1]


def test_a_post_without_predictions_never_outranks_a_post_with_predictions() -> None:
    found = predicted(candidates_in(STORE, 1, 2), {}, None).with_columns(weighted=np.array([0.0, 9.0]))
    assert found.posts.post_id[found.ranking()].tolist() == [1, 2]
