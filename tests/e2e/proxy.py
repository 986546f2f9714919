"""A TCP proxy with delays and stalls. It runs in the process of the test."""

import contextlib
import socket
import threading
import time
from typing import Self

CHUNK_BYTES = 65_536


class Proxy:
    """Forwards each connection to a server in both directions, until one end closes it.

    The bytes of a killed client are still forwarded, as in a network. A write can arrive long after its writer died.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port, self._delay_s = target_port, 0.0
        self._open = threading.Event()
        self._open.set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.resume()
        with contextlib.suppress(OSError):  # shutdown wakes the thread in accept; close alone does not
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    @property
    def address(self) -> str:
        """The host and port that clients use."""
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    def redirect(self, target_port: int) -> None:
        """Forward new connections to another server, as an address does that follows a primary."""
        self._target_port = target_port

    def slow(self, delay_s: float) -> None:
        """Delay each chunk of bytes from now on."""
        self._delay_s = delay_s

    def stall(self) -> None:
        """Hold back all bytes from now on. No byte is lost."""
        self._open.clear()

    def resume(self) -> None:
        """End delays and stalls. The bytes that were held back come first."""
        self._delay_s = 0.0
        self._open.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        with client:
            try:
                server = socket.create_connection(("127.0.0.1", self._target_port))
            except ConnectionRefusedError:  # the client sees its connection closed
                return
            with server:
                back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
                back.start()
                self._pump(client, server)
                back.join()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):  # one end has closed; the shutdown below closes the other
            while chunk := source.recv(CHUNK_BYTES):
                if self._delay_s:
                    time.sleep(self._delay_s)
                self._open.wait()
                sink.sendall(chunk)
        for end, how in ((sink, socket.SHUT_WR), (source, socket.SHUT_RD)):
            with contextlib.suppress(OSError):
                end.shutdown(how)
