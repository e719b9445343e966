"""Runs the mock provider until it is told to stop. Mock provider, no Django."""

import asyncio
import json
import signal
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

from .options import MockOptions
from .server import MockProvider


def run(options: MockOptions) -> None:
    """Serves until SIGINT or SIGTERM; the bound port is one JSON line on standard output."""
    with asyncio.Runner(loop_factory=_find_fast_loop()) as runner:
        runner.run(_serve(options))


def _find_fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's loop where it is installed (it has no build for Windows)."""
    if find_spec("uvloop") is None:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = import_module("uvloop").new_event_loop
    return factory


async def _serve(options: MockOptions) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with MockProvider(options) as mock:
        print(json.dumps({"port": mock.port, "origin": mock.origin}), flush=True)
        await stopped.wait()
