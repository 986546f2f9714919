"""A TCP forwarder on 127.0.0.1: the public port of the embedded broker, open only while the broker may be used."""

import contextlib
import logging
import socket
import threading
import time
from typing import Final, Self

import psutil

CHUNK_BYTES: Final = 1 << 16
RETRY_S: Final = 0.05

logger = logging.getLogger(__name__)


class PortForwarder:
    """Forwards connections from one port to another, with two threads a connection.

    Until `open` it accepts connections of this process only. After `close` only those stay connected. A context
    manager that ends the forwarding.
    """

    def __init__(self, port: int, target_port: int) -> None:
        self._target = ("127.0.0.1", target_port)
        self._listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self._lock = threading.Lock()
        self._foreign: set[socket.socket] = set()
        self._is_open = self._has_ended = False
        self._thread = threading.Thread(target=self._accept, name="forwarder", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._has_ended = True
        _shut(self._listener)
        self._thread.join()
        self._listener.close()

    def open(self) -> None:
        """Accept the connections of all processes. Any thread."""
        with self._lock:
            self._is_open = True

    def close(self) -> None:
        """Disconnect all other processes and accept them no more. Any thread."""
        with self._lock:
            self._is_open = False
            for client in self._foreign:
                _shut(client)

    def _accept(self) -> None:
        while not self._has_ended:
            try:
                client, address = self._listener.accept()
            except OSError as error:  # such as too many open files; or the listener was shut
                if not self._has_ended:
                    logger.warning("the forwarder cannot accept a connection: %s", error)
                    time.sleep(RETRY_S)
                continue
            try:
                is_own = _is_of_this_process(address[1])
            except (OSError, psutil.Error) as error:
                logger.warning("the forwarder closes a connection, since its process is unknown: %s", error)
                client.close()
                time.sleep(RETRY_S)
                continue
            with self._lock:
                if not (is_own or self._is_open):
                    client.close()
                    continue
                if not is_own:
                    self._foreign.add(client)
            threading.Thread(target=self._serve, args=(client,), name="connection", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(self._target) as broker:
            for side in (client, broker):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            back = threading.Thread(target=_copy, args=(broker, client), name="connection", daemon=True)
            back.start()
            _copy(client, broker)
            back.join()
        with self._lock:
            self._foreign.discard(client)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    """Copy until either side ends, then end both."""
    buffer = memoryview(bytearray(CHUNK_BYTES))
    with contextlib.suppress(OSError):
        while size := source.recv_into(buffer):
            sink.sendall(buffer[:size])
    _shut(source)
    _shut(sink)


def _shut(side: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it is closed already
        side.shutdown(socket.SHUT_RDWR)


def _is_of_this_process(port: int) -> bool:
    connections = psutil.Process().net_connections(kind="tcp4")
    return any(each.laddr.port == port and each.raddr for each in connections)
