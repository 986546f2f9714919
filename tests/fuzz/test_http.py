"""Damaged requests and idle connections to a worker's HTTP port."""

import contextlib
import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry, Counter

from infra.ports.endpoints import CONNECTIONS, Endpoints
from infra.ports.settings import load
from tests.fuzz.mutations import damaged_bytes

INPUTS = 20_000 if os.environ.get("FORYOU_SOAK") else 500
REQUESTS = (
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET /readyz?x=" + b"y" * 70_000 + b" HTTP/1.1\r\n\r\n",
    b"POST /healthz HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\nabc",
    b"GET /healthz HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n",
    b"GET /../../etc/passwd HTTP/9.9\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40),  # TLS
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"HEAD /metrics\r\n",
    b"\r\n" * 40,
    b"",
)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.fixture
def port() -> Iterator[int]:
    registry, number = CollectorRegistry(), free_port()
    Counter("some", "a metric", registry=registry)
    with Endpoints(load(http_port=number), registry, lambda: None, lambda: "waiting for posts"):
        yield number


def answers(port: int) -> bool:
    """True once a proper request is answered; connections that are still open may close it first."""
    for _ in range(300):
        with contextlib.suppress(OSError), urlopen(f"http://127.0.0.1:{port}/healthz") as answer:
            return bool(answer.read() == b"ok\n")
        time.sleep(0.1)
    return False


def test_damaged_requests_end_nothing_and_leave_no_thread(port: int) -> None:
    draw, before = random.Random(3), threading.active_count()
    for number in range(INPUTS):
        raw = draw.choice(REQUESTS)
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as client:
            client.sendall(raw if number % 3 == 0 else damaged_bytes(draw, raw))
            if number % 2:
                client.shutdown(socket.SHUT_WR)
                client.recv(64)
        assert threading.active_count() <= before + CONNECTIONS
    assert answers(port)


def test_idle_connections_are_bounded_and_pass(port: int) -> None:
    before = threading.active_count()
    with contextlib.ExitStack() as clients:
        for _ in range(4 * CONNECTIONS):
            clients.enter_context(socket.create_connection(("127.0.0.1", port), 5))
        assert threading.active_count() <= before + CONNECTIONS
        assert answers(port)
