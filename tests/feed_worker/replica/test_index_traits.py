import numpy as np

from feed_worker.replica.index_traits import describe, traits_of
from phoenix.index.retrieval_index import Mask, VectorIndex
from tests.feed_worker.builders import ids, post, store_of
from thunder_ingest.posts.store import PostStore

DIM = 2


def index_of(store: PostStore, *post_ids: int) -> VectorIndex:
    index = VectorIndex()
    index.upsert(ids(*post_ids), np.ones((len(post_ids), DIM), np.float32), "v", traits_of(store, ids(*post_ids)))
    return index


def found(index: VectorIndex, mask: Mask) -> list[int]:
    post_ids, _ = index.search(np.ones((1, DIM), np.float32), 3, "v", [mask])
    return [post_id for post_id in post_ids[0].tolist() if post_id >= 0]


def test_masks_use_the_stored_traits_of_a_post() -> None:
    store = store_of(post(1, 60, lang="en"), post(2, 70, lang="de", video_ms=9_000))
    index, german = index_of(store, 1, 2), int(traits_of(store, ids(2)).language[0])
    assert found(index, Mask(without_authors=ids(60))) == [2]
    assert found(index, Mask(languages=ids(german))) == [2]
    assert found(index, Mask(video=False)) == [1]


def test_a_new_label_counts_at_once() -> None:
    store = store_of(post(1), post(2))
    index, clean = index_of(store, 1, 2), Mask(without_labels=store.label_mask({"spam"}))
    assert found(index, clean) == [2, 1]
    store.apply([post(2, labels={"spam"})])
    describe(index, store, ids(2, 3))
    assert found(index, clean) == [1]


def test_a_post_that_arrives_after_its_vector_is_described_on_arrival() -> None:
    store = store_of()
    index = index_of(store, 1)
    store.apply([post(1, 60)])
    describe(index, store, ids(1))
    assert found(index, Mask(without_authors=ids(60))) == []
