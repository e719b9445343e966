"""The mock provider as a server: in this process on the running loop, or in a process of its own. Mock
provider.
"""

import asyncio
import json
import os
import secrets
import select
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from .app import MockApp
from .calls import CallRecord, ReceivedBody
from .connection import MockConnection
from .faults import find_fault
from .options import MockOptions, to_arguments

_BACKLOG = 4096
_ROOT = Path(__file__).resolve().parents[2]
_POLL_SECONDS = 0.002
_DEFAULTS = MockOptions()


class MockProvider:
    """A mock provider on the running event loop; `async with MockProvider() as mock` starts and stops it.

    `settings` fields may be given directly: `MockProvider(latency=0.01, tokens=100)`, in seconds and tokens.
    """

    def __init__(
        self,
        options: MockOptions = _DEFAULTS,
        *,
        tls: ssl.SSLContext | None = None,
        now: Callable[[], float] = time.time,
        key: bytes | None = None,
        require_key: str | None = None,
        **settings: Any,
    ) -> None:
        if settings:
            options = replace(options, settings=replace(options.settings, **settings))
        if require_key is not None:
            options = replace(options, require_key=require_key)
        self.options = options
        self.app = MockApp(options, key=key or secrets.token_bytes(32), now=now)
        self.port = 0
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._connections: set[MockConnection] = set()

    @property
    def origin(self) -> str:
        """Scheme, host and port, such as `http://127.0.0.1:41234`."""
        return f"http{'s' if self._tls else ''}://{self.options.host}:{self.port}"

    async def start(self) -> None:
        """Binds and accepts; `port` is known afterwards. Raises OSError when the port is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._connection, self.options.host, self.options.port, backlog=_BACKLOG, ssl=self._tls
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stops accepting and cuts every connection."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.abort()
        while self._connections:  # noqa: ASYNC110  # each leaves the set in its own connection_lost
            await asyncio.sleep(_POLL_SECONDS)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    async def __aenter__(self) -> "MockProvider":
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _connection(self) -> MockConnection:
        return MockConnection(self.app, self._connections, self.app.log.connections_total + 1)

    def stats(self) -> dict[str, Any]:
        """What `GET /_stats` says: totals and one record a call."""
        return self.app.log.document()

    def calls(self) -> list[CallRecord]:
        """The records of the last calls, oldest first."""
        return list(self.app.log.records)

    def bodies(self) -> list[ReceivedBody]:
        """The last request bodies, byte for byte, oldest first."""
        return self.app.log.bodies()

    def reset(self) -> None:
        """Forgets calls and scheduled faults."""
        self.app.log.reset()
        self.app.schedule.clear()

    def fail_next(
        self, fault: str, count: int = 1, path: str | None = None, model: str | None = None
    ) -> None:
        """Schedules a fault for the next calls; raises ValueError for one that is not known."""
        found = find_fault(fault)
        if found is None:
            raise ValueError(f"no fault is called {fault!r}")
        self.app.schedule.add(found, count, path, model)

    async def until(self, holds: Callable[[dict[str, Any]], bool], seconds: float = 30.0) -> dict[str, Any]:
        """The stats as soon as `holds(stats)`; raises TimeoutError after `seconds`."""
        async with asyncio.timeout(seconds):
            while not holds(seen := self.stats()):  # noqa: ASYNC110  # the condition is the caller's own
                await asyncio.sleep(_POLL_SECONDS)
            return seen


@dataclass(frozen=True, slots=True)
class MockProcess:
    """A mock provider that runs in its own process."""

    port: int
    origin: str
    pid: int


@contextmanager
def mock_process(
    options: MockOptions = _DEFAULTS, *, seconds: float = 20.0, **settings: Any
) -> Iterator[MockProcess]:
    """Runs the mock as a real process until the block ends; raises TimeoutError when it does not come up.

    `settings` fields may be given directly, as for MockProvider.
    """
    options = replace(options, settings=replace(options.settings, **settings))
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(  # noqa: S603  # our own interpreter and module, no shell
        [sys.executable, "-m", "providers.mock", *to_arguments(options)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    try:
        bound = json.loads(_first_line(process, seconds))
        yield MockProcess(bound["port"], bound["origin"], process.pid)
    finally:
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _first_line(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    if process.stdout is None:
        raise RuntimeError("the mock's output is not piped")
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    line = process.stdout.readline() if ready else b""
    if not line:
        raise TimeoutError(f"the mock did not say its port within {seconds} s (exit code {process.poll()})")
    return line


@contextmanager
def closed_port(host: str = "127.0.0.1") -> Iterator[int]:
    """A port on which every connection is refused; held by a bound socket that does not listen."""
    with socket.socket() as held:
        held.bind((host, 0))
        yield held.getsockname()[1]
