"""The published arithmetic of scores, in its order, one class a rule, with our differences."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feed_worker.candidates.columns import Candidates
from feed_worker.parameters import CLASSIC, FORYOU, X_2026_08_12, Parameters
from feed_worker.scorers.author_diversity import AuthorDiversityScorer
from feed_worker.scorers.oon import OONScorer
from feed_worker.scorers.phoenix import PhoenixScorer
from feed_worker.scorers.weighted import WeightedScorer, weighted_terms
from feed_worker.selectors.top_k import TopKSelector
from tests.feed_worker.builders import (
    FixedModel,
    candidates_in,
    fixed_predictions,
    hydrated,
    post,
    predicted,
    query,
    store_of,
    viewer,
    weighing,
)

STORE = store_of(*(post(i, 50 + i % 3, video_ms=10_000 * (i % 3)) for i in range(1, 10)))


def weighted(candidates: Candidates, parameters: Parameters) -> list[float]:
    (scored,) = WeightedScorer().score([query(parameters=parameters)], [candidates])
    values: list[float] = scored.weighted.tolist()
    return values


def diversity(candidates: Candidates, scores: Sequence[float]) -> list[float]:
    given_scores = predicted(candidates, *({} for _ in scores)).with_columns(weighted=np.array(scores, np.float64))
    (scored,) = AuthorDiversityScorer().score([query()], [given_scores])
    values: list[float] = scored.diversity.tolist()
    return values


class TestModel:
    """The ranker: predictions for candidates, up to a maximum."""

    def test_the_ranker_scores_every_query_of_a_batch_by_its_own_candidates(self) -> None:
        found = [candidates_in(STORE, 1, 2, 3), candidates_in(STORE, 4)]
        scored = PhoenixScorer(STORE, FixedModel()).score([query(), query(user_id=2)], found)
        for each in scored:
            expected = [fixed_predictions(post_id) for post_id in each.posts.post_id.tolist()]
            assert each.predictions == pytest.approx(np.array(expected, np.float32))

    def test_candidates_beyond_the_maximum_get_no_predictions_and_rank_last(self) -> None:
        asked = query(parameters=replace(FORYOU, max_candidates=2))
        (scored,) = PhoenixScorer(STORE, FixedModel()).score([asked], [candidates_in(STORE, 1, 2, 3)])
        assert scored.scored.tolist() == [True, True, False]
        (weighed,) = WeightedScorer().score([asked], [scored])
        assert TopKSelector().select(asked, weighed).tolist()[-1] == 2

    def test_the_maximum_of_one_query_holds_in_a_batch_with_larger_queries(self) -> None:
        few, many = query(parameters=replace(FORYOU, max_candidates=1)), query(user_id=2)
        found = [candidates_in(STORE, 1, 2), candidates_in(STORE, 3, 4, 5)]
        scored = PhoenixScorer(STORE, FixedModel()).score([few, many], found)
        assert [each.scored.tolist() for each in scored] == [[True, False], [True, True, True]]

    def test_a_batch_is_scored_by_the_ranker_of_each_query(self) -> None:
        other = FixedModel(lambda post_id: fixed_predictions(post_id + 1), version="other")
        asked = [query(parameters=replace(FORYOU, checkpoint=checkpoint)) for checkpoint in ("", "there", "")]
        found = [candidates_in(STORE, 1), candidates_in(STORE, 1, 2), candidates_in(STORE, 2)]
        scored = PhoenixScorer(STORE, FixedModel(), {"there": other}).score(asked, found)
        expected = [fixed_predictions(1), fixed_predictions(2), fixed_predictions(3), fixed_predictions(2)]
        assert np.concatenate([each.predictions for each in scored]).tolist() == np.array(expected, np.float32).tolist()
        assert len(other.scored) == 1

    def test_a_repost_is_scored_as_its_source(self) -> None:
        model = FixedModel()
        store = store_of(post(1, 50, text="words", photos=2), post(2, 60, "repost", source_post_id=1))
        asked = query(viewer(following=[60]))
        PhoenixScorer(store, model).score([asked], [hydrated(store, asked, 2)])
        (inputs,) = model.scored
        assert (inputs.post_id[0, 0], inputs.author_id[0, 0], inputs.photos[0, 0]) == (1, 50, 2)
        assert inputs.tokens[0, 0, 0] != 0


class TestWeightedSum:
    """1 and 2. The sum of weight times prediction."""

    def test_a_score_is_the_weighted_sum_of_predictions_and_the_offset(self) -> None:
        found = predicted(candidates_in(STORE, 3), {"favorite": 0.2, "reply": 0.1, "report": 0.01, "click": 0.5})
        assert weighted(found, weighing(favorite=1.0, reply=5.0, report=-10.0)) == pytest.approx(
            [0.2 + 0.5 - 0.1 + 0.001]
        )

    def test_dwell_time_is_weighted_per_second(self) -> None:
        found = predicted(candidates_in(STORE, 3), {"dwell_time": 30_000.0})
        assert weighted(found, weighing(dwell_time=0.004)) == pytest.approx([0.12])

    def test_a_video_view_counts_only_for_videos_strictly_longer_than_ten_seconds(self) -> None:
        found = predicted(candidates_in(STORE, 3, 1, 2), *3 * [{"vqv": 0.5}])
        assert found.posts.video_ms.tolist() == [0, 10_000, 20_000]
        assert weighted(found, weighing(vqv=2.0)) == pytest.approx([0.001, 0.001, 1.001])

    def test_a_missing_prediction_counts_0_and_a_missing_row_scores_0(self) -> None:
        found = predicted(candidates_in(STORE, 1, 2), {"favorite": 0.5}, None)
        holed = found.predictions.copy()
        holed[0, 1:] = np.nan
        assert weighted(found.with_columns(predictions=holed), weighing(favorite=1.0, reply=5.0)) == [0.501, 0.0]


class TestOffset:
    """4. No score below zero. (3, a boost of replies between mutual follows, has no counterpart.)"""

    def test_a_negative_sum_is_squeezed_below_every_positive_one(self) -> None:
        parameters = weighing(favorite=1.0, report=-9.0)
        found = predicted(candidates_in(STORE, 1, 2, 3), {"report": 0.1}, {"report": 1.0}, {})
        assert weighted(found, parameters) == pytest.approx([(9 - 0.9) / 10 * 0.001, 0.0, 0.001], abs=1e-9)

    def test_the_published_totals_scale_the_published_squeeze(self) -> None:
        found = predicted(candidates_in(STORE, 3), {"report": 0.5})
        assert weighted(found, X_2026_08_12) == pytest.approx([(367.22 - 117) / 410.54 * 0.001])

    def test_without_discrete_weights_a_negative_sum_scores_0(self) -> None:
        found = predicted(candidates_in(STORE, 1, 2), {"dwell_time": 1_000.0}, {"dwell_time": 2_000.0})
        assert weighted(found, weighing(dwell_time=-1.0)) == [0.0, 0.0]
        assert weighted(found, weighing(dwell_time=1.0)) == pytest.approx([1.0, 2.0])

    @given(
        st.lists(st.floats(0, 1, width=32), min_size=38, max_size=38), st.sampled_from([FORYOU, CLASSIC, X_2026_08_12])
    )
    def test_a_larger_sum_never_scores_less_and_no_score_is_negative(
        self, values: list[float], preset: Parameters
    ) -> None:
        rows = np.array(values, np.float32).reshape(2, 19)
        found = candidates_in(STORE, 1, 2).with_columns(predictions=rows)
        sums = weighted_terms(found, preset).sum(axis=1)
        low, high = np.array(weighted(found, preset))[np.argsort(sums, kind="stable")]
        assert 0 <= low <= high + 1e-12


class TestAuthorDiversity:
    """6. Each further post of an author counts less; here, of the original author."""

    def test_each_further_post_of_an_author_counts_less_down_to_the_floor(self) -> None:
        store = store_of(*(post(i) for i in range(1, 7)))
        found = candidates_in(store, 1, 2, 3, 4, 5, 6)
        assert diversity(found, [6, 5, 4, 3, 2, 1]) == [1, 0.625, 0.4375, 0.34375, 0.296875, 0.2734375]
        assert diversity(found, [1, 2, 3, 4, 5, 6])[::-1] == [1, 0.625, 0.4375, 0.34375, 0.296875, 0.2734375]

    def test_posts_of_different_authors_do_not_lower_each_other(self) -> None:
        assert diversity(candidates_in(STORE, 1, 2, 3), [3, 2, 1]) == [1, 1, 1]

    def test_reposts_count_for_the_original_author(self) -> None:
        store = store_of(
            post(1, 50),
            post(2, 50),
            *(post(10 + i, 60 + i, "repost", source_post_id=i, source_author_id=50) for i in (1, 2)),
        )
        found = hydrated(store, query(), 11, 12)
        assert diversity(found, [2, 1]) == [1, 0.625]

    @given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=20))
    def test_the_place_among_an_authors_posts_is_the_number_that_rank_above(self, drawn: list[tuple[int, int]]) -> None:
        store = store_of(*(post(i, 50 + author) for i, (author, _) in enumerate(drawn, 1)))
        found = candidates_in(store, *range(1, len(drawn) + 1))
        key = [(score, i) for i, (_, score) in enumerate(drawn, 1)]  # equal times: the larger id ranks above
        expected = [
            sum(other == author and key[j] > key[i] for j, (other, _) in enumerate(drawn))
            for i, (author, _) in enumerate(drawn)
        ]
        assert diversity(found, [score for _, score in drawn]) == [0.75 * 0.5**place + 0.25 for place in expected]


class TestOutOfNetwork:
    """7. Last, out-of-network posts are lowered."""

    def test_out_of_network_posts_are_lowered_and_optionally_replies_and_reposts(self) -> None:
        store = store_of(
            post(1, 60),
            post(2, 70),
            post(3, 60, "reply", in_reply_to_post_id=1),
            post(4, 60, "repost", source_post_id=2),
            post(5, 60, "quote", source_post_id=2),
        )

        def factors(for_replies: bool) -> list[float]:
            asked = query(viewer(following=[60]), parameters=replace(FORYOU, oon_factor_for_replies=for_replies))
            (scored,) = OONScorer().score([asked], [hydrated(store, asked, 1, 2, 3, 4, 5)])
            values: list[float] = scored.oon.tolist()
            return values

        assert factors(False) == [1, 0.75, 1, 1, 1]
        assert factors(True) == [1, 0.75, 0.75, 0.75, 1]


class TestTopK:
    """Selection of the best by score."""

    def test_the_selector_takes_more_than_the_feed_needs_best_first(self) -> None:
        asked = query(parameters=replace(FORYOU, top_k=4, result_size=2), size=2)
        found = predicted(candidates_in(STORE, *range(1, 10)), *9 * [{}]).with_columns(
            weighted=np.array([1.0, 9, 2, 8, 3, 7, 4, 6, 5])
        )
        assert TopKSelector().select(asked, found).tolist() == [1, 3, 5, 7]
