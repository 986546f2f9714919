"""The HTTP endpoints of a process: `/metrics` for Prometheus, `/healthz` (liveness) and `/readyz` (readiness)."""

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from infra.ports.broken_keys import broken_keys
from infra.ports.outage import outages
from infra.ports.process_metrics import PROCESS_METRICS
from infra.ports.settings import Settings, SettingsError

log = logging.getLogger(__name__)

CONNECTIONS: Final = 32
"""Open connections, a thread each; a further one is closed at once."""
TIMEOUT_S: Final = 5.0
"""The wait for the next bytes of a request."""


class Endpoints:
    """A context manager that serves HTTP in threads of its own; does nothing if the port is 0.

    Args:
        settings: `http_host` and `http_port`.
        registry: of the metrics; takes those of every process: outages, refused records, errors of Kafka.
        failure: the error of the process, None while it is healthy; called in a thread of the server.
        waits_for: the event that the process waits for before it is ready, None once it is; called likewise.

    Raises:
        SettingsError: at construction, the address cannot be bound.

    """

    def __init__(
        self,
        settings: Settings,
        registry: CollectorRegistry,
        failure: Callable[[], str | None],
        waits_for: Callable[[], str | None],
    ) -> None:
        self._server = _server(settings, registry, failure, waits_for) if settings.http_port else None
        registry.register(ProcessCollector())

    def __enter__(self) -> Self:
        if self._server:
            threading.Thread(target=self._server.serve_forever, name="http", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()


class _Server(ThreadingHTTPServer):
    """Serves a bounded number of connections; a client that breaks off is no error."""

    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        self._free = threading.BoundedSemaphore(CONNECTIONS)
        super().__init__(*args)

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: socket.socket | tuple[bytes, socket.socket], client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, _request: Any, client_address: Any) -> None:
        log.debug("a request of %s was broken off", client_address, exc_info=True)


class ProcessCollector(Collector):
    """Reads `infra.ports.outage` and `infra.ports.process_metrics` at each scrape."""

    def collect(self) -> Iterator[Metric]:
        """The current metrics."""
        is_open = GaugeMetricFamily("foryou_outage", "1 while a server does not answer", labels=["server"])
        begun = CounterMetricFamily("foryou_outages", "Outages of a server", labels=["server"])
        for each in outages():
            is_open.add_metric([each.server], float(each.problem is not None))
            begun.add_metric([each.server], each.count)
        yield from (is_open, begun)
        yield CounterMetricFamily(
            "foryou_broken_keys", "Reads and writes skipped because of the key's value", value=broken_keys.count
        )
        for metric in PROCESS_METRICS:
            kind = GaugeMetricFamily if metric.kind == "gauge" else CounterMetricFamily
            family = kind(metric.name, metric.description, labels=[metric.label])
            for label, value in metric.values().items():
                family.add_metric([label], value)
            yield family


def _server(
    settings: Settings,
    registry: CollectorRegistry,
    failure: Callable[[], str | None],
    waits_for: Callable[[], str | None],
) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        timeout = TIMEOUT_S

        def do_GET(self) -> None:  # http.server prescribes the name
            match self.path.partition("?")[0]:
                case "/metrics":
                    self._send(HTTPStatus.OK, generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4)
                case "/healthz":
                    self._send_status(failure())
                case "/readyz":
                    self._send_status(waits_for())
                case _:
                    self._send(HTTPStatus.NOT_FOUND, b"there are /metrics, /healthz and /readyz\n")

        def _send_status(self, problem: str | None) -> None:
            status = HTTPStatus.SERVICE_UNAVAILABLE if problem else HTTPStatus.OK
            self._send(status, f"{problem or 'ok'}\n".encode())

        def _send(self, status: HTTPStatus, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing: probes come every few seconds."""

    try:
        return _Server((settings.http_host, settings.http_port), Handler)
    except OSError as error:
        raise SettingsError(
            f"FORYOU_HTTP_PORT, FORYOU_HTTP_HOST: cannot listen on {settings.http_host}:{settings.http_port} "
            f"({error.strerror}); each process on a machine needs its own port"
        ) from None
