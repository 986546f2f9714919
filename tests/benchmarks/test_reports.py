"""Runs of all benchmarks without containers, on tiny inputs: each prints one JSON object.

The tests check no speed, because the inputs are tiny and machines are shared.
"""

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import pytest

from benchmarks import (
    feed,
    feed_profile,
    footprint,
    freshness,
    ingest,
    ingest_profile,
    ranker,
    retrieval,
    thunder,
    training,
    up,
)
from infra.ports.settings import Settings
from phoenix.models.configs import CONFIGS

Main: TypeAlias = Callable[[Sequence[str]], None]
Report: TypeAlias = Callable[[Main, str], dict[str, float]]
"""Runs a benchmark with options and returns the reported values by name."""

with_flows = pytest.mark.skipif(not os.environ.get("FORYOU_SOAK"), reason="flows take a minute: FORYOU_SOAK=1")


@pytest.fixture
def report(capfdbinary: pytest.CaptureFixture[bytes]) -> Report:
    def run(main: Main, options: str) -> dict[str, float]:
        main(options.split())
        printed: dict[str, Any] = json.loads(capfdbinary.readouterr().out)
        assert printed.keys() == {"benchmark", "machine", "config", "measures"}
        assert main.__module__.endswith(printed["benchmark"])
        for measure in printed["measures"]:
            assert measure["better"] in ("lower", "higher")
            assert math.isfinite(measure["value"])
        values = {measure["name"]: measure["value"] for measure in printed["measures"]}
        assert len(values) == len(printed["measures"]) > 0
        return values

    return run


@pytest.fixture
def at_servers(servers: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that name the embedded servers."""
    for name, value in servers.environment().items():
        monkeypatch.setenv(name, value)


def test_thunder(report: Report) -> None:
    values = report(
        thunder.main, "--posts 3000 --authors 300 --viewers 5 --plain-viewers 3 --writing-seconds 0.2 --ready-posts 0"
    )
    assert {"read_1000_follows_p50", "read_10000_follows_p99", "insert_per_second", "bytes_per_post"} <= values.keys()
    assert [value for name, value in values.items() if name.startswith("different_")] == [0.0, 0.0, 0.0]


def test_footprint(report: Report) -> None:
    values = report(footprint.main, "--users 100 --sample 3 --reads 5")
    assert {"user_1024_bytes", "hydrate_user_1024_p99", "typical_user_bytes", "full_user_bytes"} <= values.keys()
    assert {value for name, value in values.items() if name.startswith("round_trips_")} == {1.0}


def test_ingest_profile(report: Report) -> None:
    values = report(ingest_profile.main, "--events 100 --repeat 2")
    assert {"posts_apply_us", "engagements_group_by_user_us"} <= values.keys()


@pytest.mark.embedded
@with_flows
@pytest.mark.usefixtures("at_servers")
def test_ingest(report: Report) -> None:
    values = report(ingest.main, "--own-servers --only burst --burst-seconds 0.5 --burst-rate 200")
    assert values.keys() == {"burst_lag_seconds"}


def test_retrieval(report: Report) -> None:
    values = report(retrieval.main, "--posts 2000 --dim 16 --k 10 --batches 1 4 --rounds 2 --large-posts 2000")
    for name in ("latency_ms_p50", "bound_share", "recall", "memory_gb_large"):
        assert any(name in each for each in values)
    assert values["recall_fp32_1"] == values["recall_int8_rescored_4"] == 1.0


@pytest.fixture
def one_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of one layer: a test of a report needs no more, and each layer is compiled."""
    for name in ("nano", "small"):
        monkeypatch.setitem(CONFIGS, name, replace(CONFIGS[name], layers=1))


@pytest.mark.usefixtures("one_layer")
def test_ranker(report: Report) -> None:
    values = report(ranker.main, "--models nano --candidates 64 --reuse-history 16 --rounds 1")
    for name in ("latency_ms_p50", "peak_share", "prefix_reuse_speedup"):
        assert any(name in each for each in values)


@pytest.mark.usefixtures("one_layer")
def test_training(report: Report) -> None:
    values = report(training.main, "--models nano --batches 4 --rounds 1")
    for name in ("examples_per_second", "peak_share"):
        assert any(name in each for each in values)


@pytest.mark.embedded
def test_feed_profile(report: Report) -> None:
    values = report(feed_profile.main, "--model nano --posts 2000 --authors 100 --viewers 5 --requests 3")
    assert {"whole_ms", "phoenix_scorer_ms", "user_state_hydrator_ms", "cpu_ms_per_feed"} <= values.keys()
    assert values["candidates_ranked"] > 0


@pytest.mark.embedded
def test_feed(report: Report) -> None:
    options = "--embedded --posts 300 --viewers 10 --rates 5 --seconds 1 --outstanding 2 --burst 5"
    values = report(feed.main, options)
    assert {"latency_ms_p50_at_5", "rate_sustained", "feeds_per_second_saturated", "stage_ms"} <= values.keys()
    assert values["lost_at_5"] == values["lost_in_burst"] == values["lag_after_burst"] == 0.0


@pytest.mark.embedded
@with_flows
@pytest.mark.usefixtures("at_servers")
def test_freshness(report: Report) -> None:
    values = report(
        freshness.main, "--own-servers --probes 1 --threads 1 --posts-per-second 50 --engagements-per-second 50"
    )
    assert {"post_to_follower_ms_p99", "delete_ms_p99", "engagement_to_history_ms_p99"} <= values.keys()
    assert values["violations"] == values["not_seen"] == 0.0


@pytest.mark.embedded
@with_flows
def test_up(report: Report) -> None:
    values = report(up.main, "--starts 1 --idle-seconds 1")
    assert values["ready_seconds"] > 0
    assert 0 < values["idle_pss"] < values["idle_rss"]
