"""Real listening sockets that count who connected, and a record of every connect that this process tried."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

_ATTEMPTS: list[str] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        _ATTEMPTS.append(str(arguments[1][0]))


@cache
def _install() -> None:
    sys.addaudithook(_note)


class Listeners:
    """Sockets on loopback addresses, all with one port."""

    def __init__(self, port: int, sockets: dict[str, socket.socket]) -> None:
        self.port = port
        self._sockets = sockets
        self._begun = len(_ATTEMPTS)

    def count(self, address: str = "") -> int:
        """Connections made since the last count, to one address or to all. The kernel completes them without us."""
        total = 0
        for bound, listener in self._sockets.items():
            while not address or bound == address:
                try:
                    connection, _ = listener.accept()
                except BlockingIOError:
                    break
                connection.close()
                total += 1
        return total

    def attempts(self) -> list[str]:
        """Every address to which this process tried to connect."""
        return _ATTEMPTS[self._begun :]


@contextmanager
def listening(*addresses: str) -> Iterator[Listeners]:
    """Listens on these addresses for as long as the block runs."""
    _install()
    with ExitStack() as stack:
        sockets: dict[str, socket.socket] = {}
        port = 0
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port))
            listener.listen(128)
            listener.setblocking(False)
            port = listener.getsockname()[1]
            sockets[address] = listener
        yield Listeners(port, sockets)
