import errno
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import psutil
import pytest

from infra.stack import port_forwarder
from infra.stack.embedded import _free_port
from infra.stack.port_forwarder import PortForwarder

CLIENT = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as server:
    server.sendall(b"x" * 300_000)
    received = b""
    try:
        while len(received) < 300_000 and (chunk := server.recv(1 << 16)):
            received += chunk
    except ConnectionResetError:
        pass
    print(len(received), flush=True)
    sys.stdin.read(1)
    print(server.recv(1))
"""


@pytest.fixture
def echo_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer(client: socket.socket) -> None:
            with client:
                while chunk := client.recv(1 << 16):
                    client.sendall(chunk)

        def accept() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:  # closed
                    return
                threading.Thread(target=answer, args=(client,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def client_of(port: int) -> "subprocess.Popen[str]":
    program = [sys.executable, "-c", CLIENT, str(port)]
    return subprocess.Popen(program, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_other_processes_are_served_between_open_and_close_only(echo_port: int) -> None:
    port = _free_port()
    with PortForwarder(port, echo_port) as forwarder, socket.create_connection(("127.0.0.1", port)) as own:
        own.sendall(b"hello")
        assert own.recv(5) == b"hello"
        with client_of(port) as early:
            assert early.communicate("x")[0].startswith("0\n")
        forwarder.open()
        with client_of(port) as served:
            assert served.stdout is not None
            assert served.stdout.readline() == "300000\n"
            forwarder.close()
            assert served.communicate("x")[0] == "b''\n"
        with client_of(port) as late:
            assert late.communicate("x")[0].startswith("0\n")
        own.sendall(b"still")
        assert own.recv(5) == b"still"


class ListenerWithErrors:
    """Raises an error at the first call of `accept`."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._errors: list[Exception] = [OSError(errno.EMFILE, "Too many open files")]

    def accept(self) -> tuple[socket.socket, tuple[str, int]]:
        if self._errors:
            raise self._errors.pop()
        return self._listener.accept()

    def __getattr__(self, name: str) -> object:
        return getattr(self._listener, name)


def echoes(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port)) as own:
        own.sendall(b"hello")
        return own.recv(5) == b"hello"


def test_the_forwarder_continues_after_an_error_in_accept(echo_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    port = _free_port()
    forwarder = PortForwarder(port, echo_port)
    monkeypatch.setattr(forwarder, "_listener", ListenerWithErrors(forwarder._listener))
    with forwarder:
        assert echoes(port)


def test_a_connection_of_an_unknown_process_is_closed_and_the_next_one_is_served(
    echo_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = _free_port()
    errors: list[Exception] = [psutil.AccessDenied()]

    def is_of_this_process(_: int) -> bool:
        if errors:
            raise errors.pop()
        return True

    monkeypatch.setattr(port_forwarder, "_is_of_this_process", is_of_this_process)
    with PortForwarder(port, echo_port):
        with socket.create_connection(("127.0.0.1", port)) as refused:
            assert refused.recv(1) == b""
        assert echoes(port)
