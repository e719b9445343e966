"""A way to the tests' database that can be taken away and given back, for threads that are told to use it."""

from __future__ import annotations

import contextlib
import copy
import select
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from django.db import connections
from django.db.utils import load_backend


class Forwarder:
    """Forwards one loopback port to another while it is open; closing it cuts every connection."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.listener: socket.socket | None = None
        self.open_sockets: list[socket.socket] = []

    def open(self) -> None:
        """Listens."""
        self.listener = socket.create_server(("127.0.0.1", self.port), reuse_port=False)
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def close(self) -> None:
        """Stops listening, and cuts what is open."""
        for item in (self.listener, *self.open_sockets):
            if item is not None:
                with contextlib.suppress(OSError):  # it was not connected
                    item.shutdown(socket.SHUT_RDWR)
                item.close()
        self.listener, self.open_sockets = None, []

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection(self.target)
            self.open_sockets += [client, server]
            threading.Thread(target=self._copy, args=(client, server), daemon=True).start()

    def _copy(self, client: socket.socket, server: socket.socket) -> None:
        other = {client: server, server: client}
        try:
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(65536)
                    if not data:
                        return
                    other[source].sendall(data)
        except (OSError, ValueError):
            return  # cut
        finally:
            client.close()
            server.close()


class Outage:
    """The tests' database, away at first. `run` calls a function in a thread whose connection takes this way."""

    def __init__(self, folder: Path) -> None:
        real = connections["default"]
        self.settings = copy.deepcopy(real.settings_dict)
        self.forwarder: Forwarder | None = None
        if real.vendor == "postgresql":
            self.settings["OPTIONS"].pop("pool", None)
            self.forwarder = Forwarder((self.settings["HOST"], int(self.settings["PORT"])))
            self.settings.update(HOST="127.0.0.1", PORT=str(self.forwarder.port))
        else:
            self.file = Path(self.settings["NAME"])
            self.link = folder / "away"
            self.settings["NAME"] = str(self.link / self.file.name)

    def end(self) -> None:
        """The database is back."""
        if self.forwarder is not None:
            self.forwarder.open()
        else:
            self.link.symlink_to(self.file.parent)

    def begin(self) -> None:
        """The database is away again. Only Postgres: an opened SQLite file can't be taken away."""
        assert self.forwarder is not None
        self.forwarder.close()

    def run(self, function: Callable[[], object]) -> threading.Thread:
        """Starts the thread."""

        def work() -> None:
            backend = load_backend(self.settings["ENGINE"])
            connections["default"] = backend.DatabaseWrapper(copy.deepcopy(self.settings), "default")
            try:
                function()
            finally:
                connections.close_all()

        thread = threading.Thread(target=work)
        thread.start()
        return thread
