import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
from prometheus_client import CollectorRegistry, Counter

from infra.ports.endpoints import Endpoints
from infra.ports.outage import outage
from infra.ports.process_metrics import SKIPPED_OFFSETS
from infra.ports.settings import SettingsError, load
from tests.e2e.containers import free_port


class Response(NamedTuple):
    status: int
    text: str


def get(port: int, path: str) -> Response:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
            return Response(response.status, response.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            return Response(error.code, error.read().decode())


def well() -> None:
    """The state of a healthy, ready worker."""


@contextmanager
def serving(
    registry: CollectorRegistry | None = None,
    failure: Callable[[], str | None] = well,
    waits_for: Callable[[], str | None] = well,
) -> Iterator[int]:
    port = free_port()
    with Endpoints(load(http_port=port), registry or CollectorRegistry(), failure, waits_for):
        yield port


def test_the_metrics_endpoint_serves_the_registry() -> None:
    registry = CollectorRegistry()
    Counter("things", "Things", registry=registry).inc(3)
    with serving(registry) as port:
        assert "things_total 3.0" in get(port, "/metrics").text


def test_a_healthy_and_ready_worker_answers_200() -> None:
    with serving() as port:
        assert get(port, "/healthz") == (200, "ok\n")
        assert get(port, "/readyz") == (200, "ok\n")
        assert get(port, "/").status == 404


def test_failures_and_waits_are_reported_until_they_end() -> None:
    problems: list[str | None] = ["LookupError: no such thing", None]
    with serving(failure=problems[0].__str__, waits_for=lambda: problems.pop(0)) as port:
        assert get(port, "/healthz") == (503, "LookupError: no such thing\n")
        assert get(port, "/readyz") == (503, "LookupError: no such thing\n")
        assert get(port, "/readyz") == (200, "ok\n")


def test_a_taken_port_is_one_line_with_the_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"^FORYOU_HTTP_PORT.*127\.0\.0\.1:{port} .*in use.*its own port$"):
            Endpoints(load(http_port=port), CollectorRegistry(), well, well)


def test_the_port_is_freed_at_the_end_and_port_0_binds_none() -> None:
    with serving() as port:
        pass
    with socket.create_server(("127.0.0.1", port)):
        pass
    with Endpoints(load(http_port=0), CollectorRegistry(), well, well):
        pass


def test_outages_and_the_metrics_of_every_process_are_exported() -> None:
    tested, registry = outage("Test", "nowhere"), CollectorRegistry()
    tested.begins("no reply")
    SKIPPED_OFFSETS.add("endpoints-0", 5)
    with serving(registry) as port:
        text = get(port, "/metrics").text
        assert 'foryou_outage{server="Test"} 1.0' in text
        assert 'foryou_outages_total{server="Test"} 1.0' in text
        assert "foryou_broken_keys_total " in text
        assert 'foryou_offsets_skipped_total{partition="endpoints-0"} 5.0' in text
        tested.ends()
        assert 'foryou_outage{server="Test"} 0.0' in get(port, "/metrics").text
