"""A database that is away: workers coast, then lock themselves, and come back where somebody still holds keys."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.e2e.service import Service
from tests.e2e.vault_fleet import Fleet, a_fleet, ask, children, tell

COAST = 2
SLACK = 12.0
"""What the test allows beyond the coast: the keyring's own 5 s, a poll, and a busy machine."""

pytestmark = [pytest.mark.slow, pytest.mark.drill, pytest.mark.xdist_group("vault-outage")]


class Line:
    """A TCP line to a port of this machine that can be cut and mended."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sockets: set[socket.socket] = set()
        self._whole = True
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *error: object) -> None:
        self.cut()
        # Wakes the thread that accepts, which closing alone would not.
        self._server.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        self._server.close()

    def cut(self) -> None:
        """Breaks every connection off, and each new one."""
        self._whole = False
        for one in list(self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """New connections go through."""
        self._whole = True

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            if not self._whole:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self._port))
            for source, sink in ((near, far), (far, near)):
                self._sockets.add(source)
                thread = threading.Thread(target=self._carry, args=(source, sink), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._sockets.discard(source)
        # Each socket is the source of one thread only, which closes it.
        source.close()


def signal_database(fleet: Fleet, number: signal.Signals) -> None:
    """To the server and to each process that serves a connection: what answers nothing is worse than what is gone."""
    assert fleet.database is not None
    for pid in children(fleet.database.process.pid):
        os.kill(pid, number)


def status(service: Service, model: str = "work-sealed") -> int:
    """What a request gets."""
    with httpx.Client(base_url=service.url, timeout=30, trust_env=False) as client:
        return ask(client, service.key, "openai", model).status


def readiness(service: Service) -> dict[str, Any]:
    """What the instance's worker says of itself."""
    page: dict[str, Any] = httpx.get(f"{service.url}/readyz", timeout=10).json()
    return page


def wait_for(holds: Callable[[], bool], seconds: float) -> float:
    """The seconds until it holds."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, f"not within {seconds} s"
        time.sleep(0.05)
    return time.monotonic() - began


def state(fleet: Fleet, number: int) -> str:
    """The vault's state in an instance."""
    return str(readiness(fleet.services[number])["vault"])


def test_a_worker_that_lost_the_database_locks_itself_and_a_peer_unlocks_it_again(tmp_path: Path) -> None:
    with ExitStack() as stack:
        fleet = stack.enter_context(a_fleet(tmp_path, instances=1, workers=1, postgres=True))
        assert fleet.database is not None
        here = fleet.first
        fleet.ask_vault("PATCH", "/settings", {"coast_seconds": COAST})
        url = urlsplit(fleet.database.url)
        line = stack.enter_context(Line(url.port or 0))
        there = fleet.add(
            TOKENHUB_DATABASE_URL=url._replace(netloc=f"tokenhub@127.0.0.1:{line.port}").geturl()
        )
        there.wait_ready()
        fleet.wait_all("unlocked")

        line.cut()
        assert status(there) == 200, "it coasts"
        cut_to_locked = wait_for(lambda: status(there) == 503, COAST + SLACK)
        wait_for(lambda: state(fleet, 1) == "locked", 5)
        assert "database" in readiness(there)["vault_reason"]
        assert status(there, "work-open") == 200
        assert (status(here), state(fleet, 0)) == (200, "unlocked")
        line.mend()
        mended_to_unlocked = wait_for(lambda: status(there) == 200, SLACK)

        signal_database(fleet, signal.SIGSTOP)
        try:
            assert {status(one) for one in fleet.services} == {200}, "they coast"
            hung_to_refused = wait_for(
                lambda: {status(one) for one in fleet.services} == {503}, COAST + SLACK
            )
            hung_to_locked = wait_for(lambda: {state(fleet, 0), state(fleet, 1)} == {"locked"}, SLACK)
            assert {status(one, "work-open") for one in fleet.services} == {200}
        finally:
            signal_database(fleet, signal.SIGCONT)
        # Nobody holds a key any more, so that nobody can give one.
        fleet.wait_all("locked", 20)
        time.sleep(3)
        assert {status(one) for one in fleet.services} == {503}
        fleet.unlock()
        assert {status(one) for one in fleet.services} == {200}
        tell(
            "a database that is away",
            coast_s=COAST,
            cut_to_locked_s=round(cut_to_locked, 1),
            mended_to_unlocked_by_a_peer_s=round(mended_to_unlocked, 1),
            hung_to_refused_s=round(hung_to_refused, 1),
            hung_to_locked_s=round(hung_to_refused + hung_to_locked, 1),
        )
