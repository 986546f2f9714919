"""Servers for the tests of this folder."""

from collections.abc import Iterator

import pytest

from infra.embedded import EmbeddedKafka, EmbeddedRedis
from infra.kafka_admin import create_topics
from infra.settings import Settings, load


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings that name an embedded Kafka, with all topics, and an embedded Redis."""
    with (
        EmbeddedKafka(tmp_path_factory.mktemp("kafka")) as kafka,
        EmbeddedRedis(tmp_path_factory.mktemp("redis")) as redis,
    ):
        settings = load(kafka=kafka.address, redis=redis.address, partitions=2)
        create_topics(settings)
        yield settings
