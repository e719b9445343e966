"""An ASGI application for the server's tests: answers, sleeps on demand, and reports its start and end in a file."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from tokenhub.process import is_dumpable


def _note(word: str) -> None:
    with Path(os.environ["NOTES"]).open("a") as file:
        file.write(f"{word} {os.getpid()}\n")


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """`/pid` tells the worker's process id, `/slow` answers in two parts half a second apart, `/scheme` its scheme.

    `/dumpable` tells whether neighbours may read the worker's memory.
    """
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    told = {"/pid": str(os.getpid()), "/scheme": scope["scheme"], "/dumpable": str(is_dumpable())}
    body = told.get(scope["path"], "ok").encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/slow":
        await send({"type": "http.response.body", "body": b"first ", "more_body": True})
        await asyncio.sleep(0.5)
    await send({"type": "http.response.body", "body": body})


async def _lifespan(receive: Any, send: Any) -> None:
    while True:
        message = await receive()
        _note(message["type"])
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return
