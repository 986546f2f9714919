"""A broker whose disk is full, under load. It ends; with space on its disk it is started again."""

import os
import time
from pathlib import Path

import pytest
import redis

from infra.ports.kafka_admin import create_topics
from tests.e2e import containers
from tests.e2e.conftest import empty_redis, patient_settings
from tests.e2e.load import Trial, survive, under_load

SOAK = bool(os.environ.get("FORYOU_SOAK"))
pytestmark = pytest.mark.skipif(not SOAK, reason="part of `make soak`: the broker starts three times")
DISK_MIB, LEFT_KIB, FAULT_S = 512, 256, 10.0


def test_no_process_ends_and_nothing_accepted_is_lost_while_the_disk_of_the_broker_is_full(
    redis_address: dict[str, str | bool], tmp_path: Path, valkey: redis.Redis
) -> None:
    with containers.small_disk(DISK_MIB) as disk, containers.kafka(disk) as kafka:
        settings = patient_settings(
            redis_address, kafka=kafka.address, group_prefix="kafka_disk", http_port=containers.free_port()
        )
        empty_redis(settings)
        create_topics(settings)

        def full_disk(trial: Trial) -> float:
            disk.fill(LEFT_KIB)
            kafka.wait_ended()
            trial.fails("Kafka", FAULT_S)
            disk.free()
            kafka.start()
            return time.monotonic()

        with under_load(settings, tmp_path, valkey, engagements=90_000) as trial:
            survive(trial, *[full_disk] * 2)
