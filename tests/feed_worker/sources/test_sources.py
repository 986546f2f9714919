from dataclasses import replace

import numpy as np
import pytest

from feed_worker.candidates.columns import SOURCES
from feed_worker.framework.components import Fetched
from feed_worker.parameters import CLASSIC, FORYOU
from feed_worker.query_hydrators.user_state import UserStateHydrator
from feed_worker.sources.phoenix_retrieval import PhoenixRetrievalSource
from feed_worker.sources.popular import PopularSource
from feed_worker.sources.stand_in import with_stand_in
from feed_worker.sources.thunder import ThunderSource
from infra.ports.clock import MINUTE_MS
from phoenix.index.retrieval_index import Traits, VectorIndex
from phoenix.models.configs import NANO
from tests.feed_worker.builders import NOW_MS, FixedModel, KnownUsers, ids, post, query, store_of, viewer
from thunder_ingest.events import ACTION_INDEX, IMPRESSION, KindName, Post, PostCounts

FRIEND, STRANGER = 60, 70


def found(fetched: Fetched) -> list[int]:
    post_ids: list[int] = fetched.candidates.posts.post_id.tolist()
    return post_ids


def index_of(
    similarities: dict[int, float], version: str = FixedModel.version, traits: Traits | None = None
) -> VectorIndex:
    """An index with these similarities of posts to each viewer of the fixed model."""
    index = VectorIndex()
    vectors = np.zeros((len(similarities), NANO.embed_dim), np.float32)
    vectors[:, 0] = list(similarities.values())
    index.upsert(np.array(list(similarities), np.int64), vectors, version, traits)
    return index


def test_thunder_finds_posts_of_followed_accounts_newest_first() -> None:
    store = store_of(*(post(i, FRIEND, created_at=NOW_MS - 10 + i) for i in (1, 2, 3)), post(4, STRANGER))
    (fetched,) = ThunderSource(store).fetch([query(viewer(following=[FRIEND]))])
    assert found(fetched) == [3, 2, 1]
    assert {SOURCES[each] for each in fetched.candidates.source} == {"thunder"}


def test_thunder_fetches_no_seen_or_served_posts_and_at_most_its_limit() -> None:
    store = store_of(*(post(i, FRIEND, created_at=NOW_MS - 10 + i) for i in range(1, 8)))
    asked = query(viewer(following=[FRIEND], seen=[7]), parameters=replace(FORYOU, in_network_max=3))
    asked.served = ids(5)
    (fetched,) = ThunderSource(store).fetch([asked])
    assert found(fetched) == [6, 4, 3]


def test_retrieval_finds_the_most_similar_posts_with_their_similarity() -> None:
    store = store_of(post(1), post(2), post(3))
    source = PhoenixRetrievalSource(store, index_of({1: 0.1, 2: 0.9, 3: 0.5}), FixedModel())
    (fetched,) = source.fetch([query(viewer(liked=[9]))])
    assert found(fetched) == [2, 3, 1]
    assert fetched.candidates.retrieval_score == pytest.approx([0.9, 0.5, 0.1])


def test_the_posts_of_followed_accounts_stand_in_for_a_missing_history() -> None:
    def written(post_id: int, author: int, kind: KindName, ago: int) -> Post:
        return post(post_id, author, kind, created_at=NOW_MS - ago, in_reply_to_post_id=1 * (kind == "reply"))

    store = store_of(
        written(1, FRIEND, "original", 50),
        written(2, STRANGER, "original", 40),
        written(3, FRIEND, "quote", 30),
        written(4, FRIEND, "reply", 20),
        written(5, FRIEND, "original", 10),
    )
    asked = query(viewer(following=[FRIEND, 61]), parameters=replace(FORYOU, stand_in_posts=2))
    positions = with_stand_in(asked, store).viewer.positions
    assert positions["post_id"].tolist() == [3, 5]
    assert positions["author_id"].tolist() == [FRIEND, FRIEND]
    assert positions["at"].tolist() == [NOW_MS - 30, NOW_MS - 10]
    assert set(positions["actions"].tolist()) == {1 << ACTION_INDEX["favorite"]}
    assert not asked.has_history, "the viewer's own history stays as it is"


def test_popular_posts_stand_in_where_followed_accounts_have_written_nothing() -> None:
    store = store_of(*(post(i, STRANGER) for i in range(1, 6)))
    likes = [0] * IMPRESSION + [10]
    likes[ACTION_INDEX["favorite"]] = 9
    store.apply_counts([PostCounts(post_id=4, at=NOW_MS, totals=likes)])
    asked = query(viewer(following=[FRIEND]), parameters=replace(FORYOU, stand_in_posts=2))
    positions = with_stand_in(asked, store).viewer.positions
    assert (len(positions), positions["post_id"][-1]) == (2, 4)


@pytest.mark.parametrize("edge", ["blocks", "blocked_by", "mutes"])
def test_no_post_that_the_viewer_may_not_see_stands_in(edge: str) -> None:
    store = store_of(post(1, FRIEND), post(2, 61), post(3, 61, labels=["spam"]))
    asked = query(viewer(following=[FRIEND, 61], **{edge: [FRIEND]}), parameters=replace(FORYOU, stand_in_posts=9))
    assert with_stand_in(asked, store).viewer.positions["post_id"].tolist() == [2]


def test_a_viewer_without_history_gets_posts_of_accounts_that_are_not_followed() -> None:
    store = store_of(post(1, FRIEND), post(2, STRANGER), post(3, STRANGER))
    traits = Traits(
        np.array([FRIEND, STRANGER, STRANGER]), np.zeros(3, np.int64), np.zeros(3, np.uint64), np.zeros(3, bool)
    )
    source = PhoenixRetrievalSource(store, index_of({1: 0.9, 2: 0.1, 3: 0.5}, traits=traits), FixedModel())
    follower, stranger = query(viewer(following=[FRIEND])), query(viewer())
    assert [source.enable(each) for each in (follower, stranger)] == [True, False]
    assert not source.enable(query(viewer(following=[FRIEND]), parameters=CLASSIC))
    assert not source.enable(query(viewer(following=[FRIEND]), in_network_only=True))
    reader = query(viewer(following=[FRIEND], liked=[1]))
    of_follower, of_reader = source.fetch([follower, reader])
    assert found(of_follower) == [3, 2]
    assert found(of_reader) == [1, 3, 2]


def test_without_any_post_there_is_no_stand_in_and_nothing_is_found() -> None:
    source = PhoenixRetrievalSource(store_of(), index_of({1: 0.9}), FixedModel())
    (fetched,) = source.fetch([query(viewer(following=[FRIEND]))])
    assert found(fetched) == []


def test_retrieval_finds_no_seen_posts_and_no_posts_that_have_left_the_store() -> None:
    store = store_of(post(1), post(2))
    source = PhoenixRetrievalSource(store, index_of({1: 0.1, 2: 0.9, 3: 0.5}), FixedModel())
    (fetched,) = source.fetch([query(viewer(liked=[2], seen=[2]))])
    assert found(fetched) == [1]


def test_hidden_posts_take_no_place_of_other_posts_in_retrieval() -> None:
    store = store_of(*(post(i) for i in range(1, 9)))
    unsafe, for_followers = store.label_mask({"spam"}), store.label_mask({"adult"})
    traits = Traits(
        author=np.array([50, 51, 52, 1, 54, 55, 56, 57]),
        language=np.zeros(8, np.int64),
        labels=np.array([0, 0, 0, 0, unsafe, for_followers, 0, 0], np.uint64),
        video=np.arange(1, 9) == 7,
    )
    source = PhoenixRetrievalSource(store, index_of({i: 1 - i / 10 for i in range(1, 9)}, traits=traits), FixedModel())
    one = replace(FORYOU, retrieval_max=1)
    objecting = viewer(liked=[9], blocks=[50], blocked_by=[51], mutes=[52])
    (fetched,) = source.fetch([query(objecting, parameters=one, exclude_videos=True)])
    assert found(fetched) == [8]
    (fetched,) = source.fetch([query(viewer(liked=[9]), parameters=replace(FORYOU, retrieval_max=4))])
    assert found(fetched) == [1, 2, 3, 7]


def test_retrieval_uses_one_model_version_and_reports_missing_vectors() -> None:
    store = store_of(post(1))
    source = PhoenixRetrievalSource(store, index_of({1: 0.9}, "another"), FixedModel())
    (fetched,) = source.fetch([query(viewer(liked=[2]))])
    assert found(fetched) == []
    assert fetched.lacking == ("no vectors of model fixed-1",)


def test_retrieval_answers_each_query_of_a_batch_within_its_own_limit() -> None:
    store = store_of(*(post(i) for i in range(1, 6)))
    source = PhoenixRetrievalSource(store, index_of({i: i / 10 for i in range(1, 6)}), FixedModel())
    few = query(viewer(liked=[9]), parameters=replace(FORYOU, retrieval_max=2))
    assert [found(each) for each in source.fetch([few, query(viewer(liked=[9]))])] == [[5, 4], [5, 4, 3, 2, 1]]


def test_retrieval_needs_history_and_skips_in_network_requests() -> None:
    source = PhoenixRetrievalSource(store_of(), index_of({}), FixedModel())
    assert source.enable(query(viewer(liked=[1])))
    assert not source.enable(query(viewer()))
    assert not source.enable(query(viewer(liked=[1]), in_network_only=True))


def test_popular_posts_are_for_viewers_without_history_or_with_few_candidates() -> None:
    source = PopularSource(store_of())
    known, unknown = query(viewer(liked=[1])), query()
    assert source.enable(known)
    known.found = unknown.found = FORYOU.popular_below
    assert not source.enable(known)
    assert source.enable(unknown)
    assert not source.enable(query(in_network_only=True))


def test_popular_posts_are_unseen_originals_and_quotes() -> None:
    store = store_of(*(post(i) for i in (1, 2, 3)), post(4, FRIEND, "repost", source_post_id=1))
    some, all_ = PopularSource(store).fetch([query(viewer(seen=[1])), query()])
    assert sorted(found(some)) == [2, 3]
    assert sorted(found(all_)) == [1, 2, 3]


def test_a_viewer_who_has_seen_the_most_popular_posts_gets_the_next() -> None:
    store = store_of(*(post(i, created_at=NOW_MS - i * MINUTE_MS) for i in range(1, 7)))
    asked = query(viewer(seen=[1, 2, 3]), parameters=replace(FORYOU, popular_max=2))
    (fetched,) = PopularSource(store).fetch([asked])
    assert found(fetched) == [4, 5]


def test_what_a_few_accounts_can_do_to_a_post_for_all_is_a_parameter() -> None:
    store = store_of(post(1, created_at=NOW_MS), post(2, created_at=NOW_MS))
    totals = [0] * 19 + [1_000]
    totals[ACTION_INDEX["favorite"]] = 500
    store.apply_counts([PostCounts(post_id=2, at=1, totals=[499, *totals[1:]])])
    totals[ACTION_INDEX["report"]] = 9
    store.apply_counts([PostCounts(post_id=1, at=1, totals=totals)])
    heard = query(parameters=replace(FORYOU, popular_few_accounts=8))
    assert [found(each) for each in PopularSource(store).fetch([query(), heard])] == [[1, 2], [2, 1]]


def test_the_viewers_of_a_batch_are_read_in_one_call() -> None:
    users = KnownUsers({"1": viewer(following=[5], seen=[3])})
    one, two = query(seen_ids=[9]), query(user_id=2)
    known_of_one, known_of_two = UserStateHydrator(users).hydrate([one, two])
    assert known_of_one["user"].following.tolist() == [5]
    assert known_of_one["seen"].tolist() == [3, 9]
    assert not known_of_two["user"].is_known


def test_posts_served_to_earlier_requests_within_ten_minutes_count_as_served() -> None:
    served = [(1, NOW_MS - 11 * MINUTE_MS), (2, NOW_MS - 10 * MINUTE_MS), (3, NOW_MS - 1), (4, NOW_MS), (5, NOW_MS + 1)]
    (known,) = UserStateHydrator(KnownUsers({"1": viewer(served=served)})).hydrate([query()])
    assert known["served"].tolist() == [2, 3]


def test_only_the_newest_hundred_served_posts_count() -> None:
    served = [(i, NOW_MS - 200 + i) for i in range(1, 151)]
    (known,) = UserStateHydrator(KnownUsers({"1": viewer(served=served)})).hydrate([query()])
    assert known["served"].tolist() == list(range(51, 151))


def test_a_viewer_that_was_not_read_is_an_error_not_a_viewer_without_blocks() -> None:
    asked = query()
    asked.user = None
    with pytest.raises(LookupError):
        _ = asked.viewer


def test_low_quality_fetches_fewer_candidates_from_each_source_but_enough_for_a_feed() -> None:
    store = store_of(*(post(i, FRIEND + i % 5, created_at=NOW_MS - i) for i in range(1, 201)))
    index = index_of({i: 1 / i for i in range(1, 201)})
    parameters = replace(FORYOU, in_network_max=160, retrieval_max=120, popular_max=40)

    def counts(quality: float) -> list[int]:
        asked = query(viewer(following=range(60, 65), liked=[999]), parameters=parameters)
        asked.quality = quality
        sources = (ThunderSource(store), PhoenixRetrievalSource(store, index, FixedModel()), PopularSource(store))
        return [len(source.fetch([asked])[0].candidates) for source in sources]

    assert counts(1.0) == [160, 120, 40]
    assert counts(0.5) == [80, 60, 40]
    assert counts(0.1) == [50, 50, 40]
