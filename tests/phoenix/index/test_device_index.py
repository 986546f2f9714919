import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from phoenix.index.device_index import DeviceIndex
from phoenix.index.masks import Mask, Traits

STRICT = {"JAX_NUMPY_RANK_PROMOTION": "raise", "JAX_NUMPY_DTYPE_PROMOTION": "strict"}


def test_rows_split_over_eight_devices_are_found_as_if_they_were_on_one() -> None:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.phoenix.index.sharded_index"],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"} | STRICT,
        cwd=Path(__file__).parents[3],
        check=True,
    )


def test_a_growing_index_is_never_traced_again() -> None:
    flat_index, traces = DeviceIndex(4, chunk_rows=64), set()
    for begin in range(1, 400, 50):
        ids = np.arange(begin, begin + 50)
        flat_index.upsert(ids, np.ones((50, 4), np.float32), Traits.unknown(50))
        flat_index.remove(ids[:5])
        found, _ = flat_index.search(np.ones((1, 4), np.float32), 3, [Mask()])
        assert found.tolist() == [[begin + 49, begin + 48, begin + 47]]
        traces.add(flat_index.traces)
    assert len(flat_index.chunks) > 4
    assert len(traces) == 1


def test_after_the_warm_up_nothing_is_traced_for_any_request() -> None:
    flat_index = DeviceIndex(4, chunk_rows=64)
    flat_index.warm_up(batches=(1, 4), k=16)
    assert len(flat_index) == 0
    traces = flat_index.traces
    flat_index.upsert(np.arange(1, 301), np.ones((300, 4), np.float32), Traits.unknown(300))
    for batch, k, left_out in ((1, 9, 5), (4, 16, 80), (3, 12, 280)):
        mask = Mask(without_posts=np.arange(301 - left_out, 301), authors=np.zeros(1, np.int64))
        found, _ = flat_index.search(np.ones((batch, 4), np.float32), k, [mask] * batch)
        expected = list(range(300 - left_out, max(300 - left_out - k, 0), -1))
        assert found.tolist() == [expected + [-1] * (k - len(expected))] * batch
    flat_index.remove(np.arange(1, 200))
    flat_index.upsert(np.arange(1, 3), np.ones((2, 4), np.float32), Traits.unknown(2))
    assert flat_index.traces == traces
