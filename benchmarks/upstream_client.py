"""CPU of the client's process per relayed request and per 100-event stream, for each client behind the seam.

    python -m benchmarks.upstream_client [--requests 20000] [--streams 600] [--concurrency 64] [--rounds 3]

The provider is an asyncio protocol in another process. User and system time come from the operating system
(`os.times`), for this process alone; each figure is the best of the rounds, for other work on the machine only adds.
"""

import argparse
import asyncio
import multiprocessing
import multiprocessing.connection
import os
import platform
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

import uvloop

from gateway.upstream.aiohttp_client import AiohttpClient
from gateway.upstream.http1 import Http1Client
from gateway.upstream.seam import Origin, UpstreamRequest

Client = Http1Client | AiohttpClient
EVENTS = 100
PATIENCE = 60.0

_ANSWER_BODY = b'{"id":"x","choices":[{"message":{"role":"assistant","content":"%s"}}]}' % (b"word " * 80)
_HEADERS = b"".join(
    b"%s: %s\r\n" % pair
    for pair in (
        (b"Content-Type", b"application/json"),
        (b"Date", b"Thu, 01 Jan 2026 00:00:00 GMT"),
        (b"X-Request-Id", b"req_0123456789abcdef"),
        (b"Openai-Processing-Ms", b"412"),
        (b"X-Ratelimit-Limit-Requests", b"10000"),
        (b"X-Ratelimit-Remaining-Requests", b"9999"),
        (b"Server", b"bench"),
    )
)
_ANSWER = b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s" % (_HEADERS, len(_ANSWER_BODY), _ANSWER_BODY)
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\n%sTransfer-Encoding: chunked\r\n\r\n" % _HEADERS
_EVENT = b'data: {"id":"x","choices":[{"delta":{"content":"word "}}]}\n\n'
_CHUNK = b"%x\r\n%s\r\n" % (len(_EVENT), _EVENT)
_REQUEST_BODY = b'{"model":"m","messages":[{"role":"user","content":"%s"}]}' % (b"x" * 240)


class Provider(asyncio.Protocol):
    """Answers `/stream` with events 10 ms apart and anything else at once. Expects a request in one segment."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._left = 0

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"POST /stream"):
            self._write(_STREAM_HEAD)
            self._left = EVENTS
            self._event()
        elif data.startswith(b"POST"):
            self._write(_ANSWER)

    def _event(self) -> None:
        self._left -= 1
        self._write(_CHUNK if self._left else _CHUNK + b"0\r\n\r\n")
        if self._left:
            asyncio.get_running_loop().call_later(0.01, self._event)

    def _write(self, data: bytes) -> None:
        self._transport.write(data)  # type: ignore[attr-defined]


def provide(port: multiprocessing.connection.Connection) -> None:
    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(Provider, "127.0.0.1", 0, backlog=1024)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(serve())


@dataclass(frozen=True, slots=True)
class Figure:
    """CPU seconds of this process per unit of work, and wall seconds for all of it."""

    user: float
    system: float
    wall: float

    @property
    def cpu(self) -> float:
        return self.user + self.system


async def one(client: Client, request: UpstreamRequest) -> None:
    response = await client.send(request, connect_timeout=PATIENCE, head_timeout=PATIENCE)
    try:
        while await response.read(PATIENCE):
            pass
    finally:
        response.close()


async def measure(client: Client, request: UpstreamRequest, count: int, concurrency: int) -> Figure:
    async def worker() -> None:
        for _ in range(count // concurrency):
            await one(client, request)

    await asyncio.gather(*(one(client, request) for _ in range(concurrency)))
    before, started = os.times(), time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(concurrency)))
    after, wall = os.times(), time.perf_counter() - started
    done = count // concurrency * concurrency
    return Figure((after.user - before.user) / done, (after.system - before.system) / done, wall)


async def both(
    make: Callable[[], Client], origin: Origin, options: argparse.Namespace
) -> tuple[Figure, Figure]:
    client = make()
    headers = ((b"content-type", b"application/json"), (b"authorization", b"Bearer " + b"k" * 40))
    plain = UpstreamRequest(origin, b"POST", b"/v1/chat/completions", headers, _REQUEST_BODY)
    stream = UpstreamRequest(origin, b"POST", b"/stream", headers, _REQUEST_BODY)
    try:
        return (
            await measure(client, plain, options.requests, options.concurrency),
            await measure(client, stream, options.streams, options.concurrency),
        )
    finally:
        await client.aclose()


def run(loop: str, coroutine: Coroutine[None, None, tuple[Figure, Figure]]) -> tuple[Figure, Figure]:
    factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(coroutine)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--streams", type=int, default=640)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    here, there = multiprocessing.Pipe()
    provider = multiprocessing.get_context("spawn").Process(target=provide, args=(there,), daemon=True)
    provider.start()
    origin = Origin("http", "127.0.0.1", here.recv())
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} cores, {' '.join(sys.argv[1:]) or 'defaults'}\n"
    )
    print("| client | loop | µs CPU a request (user + system) | ms CPU a 100-event stream (user + system) |")
    print("|---|---|---|---|")
    makers: dict[str, Callable[[], Client]] = {"http1": Http1Client, "aiohttp": AiohttpClient}
    for loop in ("uvloop", "asyncio"):
        for name, make in makers.items():
            rounds = [run(loop, both(make, origin, options)) for _ in range(options.rounds)]
            request = min((pair[0] for pair in rounds), key=lambda figure: figure.cpu)
            stream = min((pair[1] for pair in rounds), key=lambda figure: figure.cpu)
            print(
                f"| {name} | {loop} | {request.cpu * 1e6:.0f} ({request.user * 1e6:.0f} + {request.system * 1e6:.0f})"
                f" | {stream.cpu * 1e3:.2f} ({stream.user * 1e3:.2f} + {stream.system * 1e3:.2f}) |",
                flush=True,
            )
    provider.terminate()
    provider.join()


if __name__ == "__main__":
    main()
