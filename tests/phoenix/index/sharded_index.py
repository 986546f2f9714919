"""Run by test_device_index in a separate process, with eight virtual devices on the host."""

import jax
import numpy as np

from phoenix.index.device_index import DeviceIndex
from phoenix.index.masks import Mask, Traits

DIM, CHUNK, K = 8, 256, 10
rng = np.random.default_rng(7)


def traits(ids: np.ndarray) -> Traits:
    return Traits(ids % 5, ids % 3, np.zeros(len(ids), np.uint64), ids % 2 == 0)


def best(held: dict[int, np.ndarray], query: np.ndarray, mask: Mask) -> list[int]:
    without = [] if mask.without_authors is None else mask.without_authors.tolist()
    allowed = [i for i in held if i % 5 not in without and (mask.video or i % 2)]
    return sorted(allowed, key=lambda i: (float(held[i] @ query), i), reverse=True)[:K]


def main() -> None:
    assert jax.device_count() == 8
    flat_index, held = DeviceIndex(DIM, chunk_rows=CHUNK), dict[int, np.ndarray]()
    masks = [Mask(), Mask(without_authors=np.array([1, 4]), video=False)]
    traces = []
    for _ in range(8):
        ids = rng.integers(1, 1_500, 300)
        # whole numbers, so that many scores are equal and ids must decide, across devices and chunks
        vectors = rng.integers(-2, 3, (len(ids), DIM)).astype(np.float32)
        flat_index.upsert(ids, vectors, traits(ids))
        held.update(zip(ids.tolist(), vectors, strict=True))
        gone = rng.integers(1, 1_500, 60)
        flat_index.remove(gone)
        for id_ in gone.tolist():
            held.pop(id_, None)
        queries = rng.integers(-2, 3, (2, DIM)).astype(np.float32)
        found, _ = flat_index.search(queries, K, masks)
        assert len(flat_index) == len(held)
        assert found.tolist() == [best(held, *asked) for asked in zip(queries, masks, strict=True)]
        asked = rng.integers(1, 1_500, 40)
        absent = np.zeros(DIM)
        assert flat_index.vectors(asked).tolist() == [held.get(id_, absent).tolist() for id_ in asked.tolist()]
        traces.append(flat_index.traces)
    assert len(flat_index.chunks) > 2
    assert {len(chunk.vectors.sharding.device_set) for chunk in flat_index.chunks} == {8}
    assert {shard.data.shape for chunk in flat_index.chunks for shard in chunk.vectors.addressable_shards} == {
        (32, DIM)
    }
    assert traces[0] == traces[-1], "grown to more chunks, the index was traced again"


if __name__ == "__main__":
    main()
