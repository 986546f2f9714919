"""A proxy before a Redis that answers chosen commands with an error of its own."""

import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedIOBase
from typing import BinaryIO

Fault = Callable[[list[bytes]], bytes | None]
"""The text of the error for a command; None: the command goes to Redis."""


class FaultyRedis:
    """Forwards commands to a Redis; `fault` may be changed at any time."""

    def __init__(self, port: int) -> None:
        self.url = f"redis://127.0.0.1:{port}/0"
        self.fault: Fault = lambda _command: None
        self.connections = 0

    def fail(self, text: str, *commands: str, times: int = 1_000_000) -> None:
        """Answer the next `times` of these commands with an error."""
        left = times

        def fault(command: list[bytes]) -> bytes | None:
            nonlocal left
            if left <= 0 or command[0].decode().upper() not in commands:
                return None
            left -= 1
            return text.encode()

        self.fault = fault

    def fail_key(self, text: str, key: str) -> None:
        """Answer every command on a key with an error."""
        self.fault = lambda command: text.encode() if key.encode() in command else None


@contextmanager
def faulty_redis(connect: Callable[[], socket.socket]) -> Iterator[FaultyRedis]:
    """A proxy; `connect` opens a connection to the Redis behind it."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            faulty.connections += 1
            # an end that is closed closes the other
            with suppress(ConnectionError), connect() as upstream, upstream.makefile("rb") as replies:
                while command := _command(self.rfile):
                    raw, words = command
                    if (error := faulty.fault(words)) is not None:
                        self.wfile.write(b"-" + error + b"\r\n")
                    else:
                        upstream.sendall(raw)
                        self.wfile.write(_reply(replies))

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads, allow_reuse_address = True, True

    with Server(("127.0.0.1", 0), Handler) as server:
        faulty = FaultyRedis(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield faulty
        server.shutdown()


def _command(stream: BufferedIOBase) -> tuple[bytes, list[bytes]] | None:
    """The bytes and the words of the next command; None at the end of the connection."""
    head = stream.readline()
    if not head:
        return None
    raw, words = head, list[bytes]()
    for _ in range(int(head[1:])):
        length = stream.readline()
        word = stream.read(int(length[1:]) + 2)
        raw += length + word
        words.append(word[:-2])
    return raw, words


def _reply(stream: BinaryIO) -> bytes:
    """The bytes of one reply, of any depth."""
    head = stream.readline()
    if not head:
        raise ConnectionResetError("Redis has closed the connection")
    kind, size = head[:1], head[1:-2]
    if kind in b"$=!" and size != b"-1":
        return head + stream.read(int(size) + 2)
    if kind in b"*~>%" and size != b"-1":
        return head + b"".join(_reply(stream) for _ in range(int(size) * (2 if kind == b"%" else 1)))
    return head
