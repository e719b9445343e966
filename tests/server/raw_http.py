"""Plain sockets for the server's tests: what a well-behaved client library would not send."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def read_all(connection: socket.socket) -> bytes:
    """Everything until the other side closes, within the socket's time limit."""
    received = bytearray()
    while True:
        try:
            part = connection.recv(65536)
        except ConnectionResetError:
            return bytes(received)
        if not part:
            return bytes(received)
        received += part


def ask(port: int, path: str, headers: bytes = b"") -> bytes:
    """One GET on a connection of its own; the whole answer as bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(
            b"GET %s HTTP/1.1\r\nhost: x\r\nconnection: close\r\n%s\r\n" % (path.encode(), headers)
        )
        return read_all(connection)


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Returns when the condition holds; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)
