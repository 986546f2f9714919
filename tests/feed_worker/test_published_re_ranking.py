"""The published rules beyond scores: the new-author boost and DPP re-ranking."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from feed_worker.candidates.columns import Candidates
from feed_worker.parameters import X_2026_08_12
from feed_worker.scorers.dpp import MIN_VOLUME, DPPScorer, greedy_map, strengths
from feed_worker.scorers.new_author_boost import NewAuthorBoostScorer
from feed_worker.selectors.top_k import TopKSelector
from phoenix.index.retrieval_index import VectorIndex
from tests.feed_worker.builders import (
    FixedModel,
    candidates_in,
    hydrated,
    post,
    predicted,
    query,
    seen_counts,
    store_of,
    viewer,
)
from tests.feed_worker.obvious import chosen_one_by_one
from thunder_ingest.events import Post

N = 40
KNOWN = dict.fromkeys(range(1, N + 1), 5_000)


def scored(candidates: Candidates, scores: list[float]) -> Candidates:
    return predicted(candidates, *({} for _ in scores)).with_columns(weighted=np.array(scores, np.float64))


class TestNewAuthorBoost:
    """1.5. One little-seen original of a little-read author is raised to the score at place 15."""

    def boosted(
        self, views: Mapping[int, int], posts: Mapping[int, Post] | None = None, n: int = N, **changed: Any
    ) -> list[tuple[int, float]]:
        """The boost of each boosted post; post i scores 41 - i, is by author 100 + i, and has 5,000 views."""
        own = {i: post(i, 100 + i) for i in range(1, n + 1)} | dict(posts or {})
        store = store_of(*own.values(), post(404, 900))
        store.apply_counts(seen_counts(KNOWN | dict(views)))
        asked = query(viewer(following=[130]), parameters=replace(X_2026_08_12, **changed))
        found = scored(hydrated(store, asked, *range(1, n + 1)), [float(41 - i) for i in range(1, n + 1)])
        (boosted,) = NewAuthorBoostScorer(store).score([asked], [found])
        assert (boosted.boost >= 0).all()
        pairs = zip(boosted.posts.post_id.tolist(), boosted.boost.tolist(), strict=True)
        return [(post_id, boost) for post_id, boost in pairs if boost]

    def test_the_best_eligible_post_is_raised_to_the_score_at_place_15_and_no_other(self) -> None:
        assert self.boosted({30: 0, 33: 0}) == [(30, 25.0 - 11.0)]

    @pytest.mark.parametrize(("views", "is_boosted"), [(0, True), (999, True), (1_000, False), (5_000, False)])
    def test_only_a_post_seen_less_than_a_thousand_times(self, views: int, is_boosted: bool) -> None:
        assert bool(self.boosted({30: views}, new_author_max_reach=1_000_000)) == is_boosted

    @pytest.mark.parametrize(("others", "is_boosted"), [(0, True), (900, True), (901, False)])
    def test_only_an_author_whose_stored_posts_have_at_most_a_thousand_views_together(
        self, others: int, is_boosted: bool
    ) -> None:
        assert bool(self.boosted({30: 100, 404: others}, {30: post(30, 900)})) == is_boosted

    @pytest.mark.parametrize(
        ("kind", "is_boosted"), [("original", True), ("quote", True), ("reply", False), ("repost", False)]
    )
    def test_only_originals_and_quotes(self, kind: Any, is_boosted: bool) -> None:
        relation = {"reply": {"in_reply_to_post_id": 1}, "original": {}}.get(kind, {"source_post_id": 1})
        assert bool(self.boosted({30: 0}, {30: post(30, 130, kind, **relation)})) == is_boosted

    def test_only_within_the_top_85_percent_of_posts_with_a_score(self) -> None:
        assert self.boosted({34: 0}) == [(34, 25.0 - 7.0)]
        assert self.boosted({35: 0}) == []

    def test_a_post_that_ranks_above_the_place_stays_and_no_other_is_boosted(self) -> None:
        assert self.boosted({3: 0, 30: 0}) == []

    def test_with_too_few_posts_none_is_raised(self) -> None:
        assert self.boosted({15: 0}, n=15) == []
        assert self.boosted({16: 0}, n=16, new_author_top_share=1.0) == []
        assert self.boosted({17: 0}, n=17, new_author_top_share=1.0) == [(17, 1.0)]

    def test_authors_are_looked_up_until_one_is_new(self) -> None:
        store = store_of(*(post(i, 100 + i) for i in range(1, 301)))
        store.apply_counts(seen_counts({i: 999 if i < 250 else 0 for i in range(1, 301)}))
        asked = query(parameters=replace(X_2026_08_12, new_author_max_reach=0))
        found = scored(candidates_in(store, *range(1, 301)), [1_000.0 - i for i in range(1, 301)])
        (boosted,) = NewAuthorBoostScorer(store).score([asked], [found])
        assert np.flatnonzero(boosted.boost).tolist() == [249]

    def test_unscored_posts_are_neither_raised_nor_counted(self) -> None:
        store = store_of(*(post(i, 100 + i) for i in range(1, 31)))
        asked = query(parameters=X_2026_08_12)
        found = predicted(candidates_in(store, *range(1, 31)), *(10 * [{}] + 20 * [None]))
        (boosted,) = NewAuthorBoostScorer(store).score([asked], [found.with_columns(weighted=np.arange(30.0) + 1)])
        assert not boosted.boost[10:].any()

    def test_it_is_a_parameter(self) -> None:
        rule = NewAuthorBoostScorer(store_of())
        assert rule.enable(query(parameters=X_2026_08_12))
        assert not rule.enable(query(parameters=replace(X_2026_08_12, new_author_boost=False)))


def unit(*components: float) -> np.ndarray:
    vector = np.zeros(FixedModel.config.embed_dim, np.float32)
    vector[: len(components)] = components
    return vector


class TestReRanking:
    """1.9. Selects good and different posts of the best 150, in the order of their scores."""

    def kept(
        self,
        vectors: Mapping[int, np.ndarray],
        scores: list[float],
        *,
        version: str = FixedModel.version,
        **changed: Any,
    ) -> list[int]:
        """The selected posts, best first; post i has the i-th score."""
        posts = [post(i, 100 + i) for i in range(1, len(scores) + 1)]
        index = VectorIndex()
        index.upsert(np.array([*vectors], np.int64), np.array([*vectors.values()], np.float32), version)
        asked = query(parameters=replace(X_2026_08_12, **changed), size=1)
        found = scored(candidates_in(store_of(*posts), *range(1, len(posts) + 1)), scores)
        (ranked,) = DPPScorer(index, FixedModel()).score([asked], [found])
        assert ranked.score.tolist() == [
            score if chosen else 0.0 for score, chosen in zip(scores, ranked.dpp.tolist(), strict=True)
        ]
        selected: list[int] = ranked.posts.post_id[TopKSelector().select(asked, ranked)].tolist()
        return selected

    def test_of_posts_with_one_vector_the_best_is_kept(self) -> None:
        alike = {1: unit(1), 2: unit(1), 3: unit(0, 1), 4: unit(2)}
        assert self.kept(alike, [1.0, 4.0, 2.0, 3.0]) == [2, 3]

    def test_posts_that_are_not_selected_never_fill_up_the_feed(self) -> None:
        assert self.kept({i: unit(1) for i in range(1, 21)}, [*range(20, 0, -1)]) == [1]

    def test_a_different_post_is_preferred_to_a_better_similar_one(self) -> None:
        near = {1: unit(1), 2: unit(0.999, 0.04), 3: unit(0, 1)}
        assert self.kept(near, [3.0, 2.9, 1.0], top_k=2, result_size=1) == [1, 3]
        assert self.kept(near, [3.0, 2.9, 1.0], top_k=2, result_size=1, dpp_theta=0.97) == [1, 2]

    def test_re_ranking_decides_membership_of_the_feed_not_its_order(self) -> None:
        differing = {i: unit(*np.eye(9)[i]) for i in range(1, 9)}
        assert self.kept(differing, [3.0, 1.0, 8.0, 5.0, 2.0, 7.0, 6.0, 4.0]) == [3, 6, 7, 4, 8, 1, 5, 2]

    def test_only_posts_of_the_pool_are_selected(self) -> None:
        differing = {i: unit(*np.eye(9)[i]) for i in range(1, 9)}
        assert self.kept(differing, [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0], dpp_pool=3) == [1, 2, 3]

    def test_at_most_top_k_posts_are_selected(self) -> None:
        differing = {i: unit(*np.eye(9)[i]) for i in range(1, 9)}
        assert self.kept(differing, [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0], top_k=2, result_size=2) == [1, 2]

    def test_a_post_without_a_vector_is_orthogonal_to_all_others(self) -> None:
        assert self.kept({1: unit(1), 2: unit(1)}, [4.0, 3.0, 2.0, 1.0]) == [1, 3, 4]

    def test_vectors_of_another_model_do_not_count(self) -> None:
        assert self.kept({1: unit(1), 2: unit(1)}, [2.0, 1.0], version="another") == [1, 2]

    def test_without_scores_all_posts_stay(self) -> None:
        assert self.kept({1: unit(1), 2: unit(1)}, [0.0, 0.0]) == [2, 1]

    def test_a_repost_has_the_vector_of_its_source(self) -> None:
        store = store_of(post(1), post(2, 60, "repost", source_post_id=1), post(3))
        index = VectorIndex()
        index.upsert(np.array([1, 3]), np.array([unit(1), unit(1)]), FixedModel.version)
        asked = query(viewer(following=[60]), parameters=X_2026_08_12)
        found = scored(hydrated(store, asked, 2, 3), [2.0, 1.0])
        (ranked,) = DPPScorer(index, FixedModel()).score([asked], [found])
        assert ranked.dpp.tolist() == [1, 0]

    def test_it_is_a_parameter(self) -> None:
        rule = DPPScorer(VectorIndex(), FixedModel())
        assert rule.enable(query(parameters=X_2026_08_12))
        assert not rule.enable(query(parameters=replace(X_2026_08_12, dpp_pool=0)))

    def test_the_published_theta_raises_the_best_to_e_to_the_0_929(self) -> None:
        assert strengths(np.array([2.0, 1.0]), 0.65) == pytest.approx(np.exp([0.65 / 0.7, 0.65 / 1.4]))
        assert strengths(np.array([2.0, 1.0]), 0.0).tolist() == [1, 1]

    @settings(max_examples=200)
    @given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 12), st.integers(0, 2**32 - 1), st.booleans())
    def test_the_incremental_factor_selects_the_same_as_the_determinants(
        self, n: int, d: int, k: int, seed: int, some_missing: bool
    ) -> None:
        rng = np.random.default_rng(seed)
        vectors = rng.normal(size=(n, d)).astype(np.float32)
        vectors[rng.random(n) < 0.3 * some_missing] = 0
        f = strengths(np.sort(rng.random(n))[::-1] + 0.01, 0.65)
        units = vectors.astype(np.float64)
        units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1e-30)
        cosines = units @ units.T
        np.fill_diagonal(cosines, 1.0)
        kernel = cosines * np.outer(f, f)
        assert greedy_map(f, vectors, k).tolist() == chosen_one_by_one(kernel, k, MIN_VOLUME)

    @settings(max_examples=50)
    @given(arrays(np.float32, (10, 3), elements=st.integers(-1, 1).map(float)))
    def test_at_most_as_many_are_selected_as_there_are_dimensions_and_posts_without_vectors(
        self, vectors: np.ndarray
    ) -> None:
        taken = greedy_map(np.linspace(2, 1, 10), vectors, 10)
        missing = int((vectors == 0).all(axis=1).sum())
        assert len(taken) == missing + np.linalg.matrix_rank(vectors)
        assert len(set(taken.tolist())) == len(taken)
