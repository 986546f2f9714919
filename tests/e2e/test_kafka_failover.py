"""Three brokers, of which one is killed, all are restarted in turn, and two are away at once, under load.

`make soak` runs it: three brokers take a minute to start.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from infra.ports.kafka_admin import create_topics, describe
from infra.ports.settings import Settings
from tests.e2e import containers
from tests.e2e.conftest import empty_redis, patient_settings
from tests.e2e.kafka_cluster import BROKERS, kafka_cluster
from tests.e2e.load import Trial, survive, under_load

pytestmark = pytest.mark.skipif(not os.environ.get("FORYOU_SOAK"), reason="part of `make soak`")


@pytest.fixture(scope="module")
def brokers() -> Iterator[list[containers.Server]]:
    with kafka_cluster() as servers:
        yield servers


@pytest.fixture
def own_settings(brokers: list[containers.Server], redis_address: dict[str, str | bool]) -> Settings:
    settings = patient_settings(
        redis_address,
        kafka=",".join(broker.address for broker in brokers),
        group_prefix="failover",
        replication_factor=BROKERS,
        http_port=containers.free_port(),
    )
    empty_redis(settings)
    create_topics(settings)
    assert [state.problem for state in describe(settings) if state.problem] == []
    return settings


def test_no_process_ends_and_nothing_is_lost_while_brokers_fail(
    own_settings: Settings, brokers: list[containers.Server], tmp_path: Path, valkey: redis.Redis
) -> None:
    def one_is_killed(_: Trial) -> float:
        brokers[0].kill()
        time.sleep(5.0)
        brokers[0].start()
        return time.monotonic()

    def all_are_restarted_in_turn(_: Trial) -> float:
        for broker in brokers:
            broker.stop()
            broker.start()
            time.sleep(2.0)
        return time.monotonic()

    def two_are_away(_: Trial) -> float:
        for broker in brokers[:2]:
            broker.stop()
        time.sleep(8.0)
        for broker, since in [(broker, broker.start_only()) for broker in brokers[:2]]:
            broker.wait(since)
        return time.monotonic()

    with under_load(own_settings, tmp_path, valkey, engagements=120_000) as trial:
        survive(trial, one_is_killed, all_are_restarted_in_turn, *[two_are_away] * 3)
