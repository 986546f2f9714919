"""A worker's HTTP endpoints: `/metrics` for Prometheus, `/healthz` (liveness) and `/readyz` (readiness)."""

import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from infra.ports.settings import Settings, SettingsError


class Endpoints:
    """A context manager that serves HTTP in threads of its own; does nothing if the port is 0.

    Args:
        settings: `http_host` and `http_port`.
        registry: of the metrics.
        failure: the error of the worker, None while it is healthy; called in a thread of the server.
        waits_for: the event that the worker waits for before it is ready, None once it is; called likewise.

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


def _server(
    settings: Settings,
    registry: CollectorRegistry,
    failure: Callable[[], str | None],
    waits_for: Callable[[], str | None],
) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
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
        return ThreadingHTTPServer((settings.http_host, settings.http_port), Handler)
    except OSError as error:
        raise SettingsError(
            f"FORYOU_HTTP_PORT, FORYOU_HTTP_HOST: cannot listen on {settings.http_host}:{settings.http_port} "
            f"({error.strerror}); each worker on a machine needs its own port"
        ) from None
