"""CPU of one gateway worker per request and per stream event, beside a bare ASGI application on the same server.

    python -m benchmarks.hot_path [--seconds 3] [--rounds 3] [--concurrency 64]

Provider, echo and gateway run in processes of their own; `wrk` makes the load of whole answers where it is installed, a small
asyncio client all other. CPU is user and system time from the operating system (Linux), for the server's process alone. Rounds
alternate, each figure is the best of them and each ratio the median of the rounds' own: other work on the machine only adds,
and adds to both.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from gateway.app import Gateway
from gateway.config import GatewayConfig
from gateway.metrics import SharedCounts
from gateway.worker import Worker
from tokenhub.core.current import Current
from tokenhub.core.keys import digest_key, find_key_parts, mint_key
from tokenhub.core.money import PriceSpec
from tokenhub.core.specs import (
    CredentialSpec,
    EndpointSpec,
    KeyDigestSpec,
    KeySpec,
    ModelSpec,
    ProviderSpec,
    Snapshot,
)
from usage.journal import Journal
from vault.keyring import Keyring

EVENTS = 100
GAP_SECONDS = 0.01
PEPPER = b"only for this benchmark"
SECRET_NAME = "TOKENHUB_CRED_BENCHMARK"
PATIENCE = 30.0
TICKS = os.sysconf("SC_CLK_TCK")
HAS_WRK = shutil.which("wrk") is not None

_TEXT = "Hello world, bonjour le monde, hola mundo. The weather is fine."
_OPENAI_ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": _TEXT, "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {
        "prompt_tokens": 40,
        "completion_tokens": 20,
        "total_tokens": 60,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    },
    "service_tier": "default",
    "system_fingerprint": "fp_1",
}
_ANTHROPIC_ANSWER = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [{"type": "text", "text": _TEXT}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 40, "output_tokens": 20, "service_tier": "standard"},
}


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _openai_events() -> list[bytes]:
    """A stream of EVENTS events as OpenAI sends it when usage was asked for: role, words, finish, usage, the end mark."""
    base = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-4o",
        "system_fingerprint": "fp_1",
    }

    def chunk(delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**base, "choices": [choice], "usage": None}

    words = [chunk({"content": f" word{number}"}) for number in range(EVENTS - 4)]
    last = {**base, "choices": [], "usage": _OPENAI_ANSWER["usage"]}
    chunks = [chunk({"role": "assistant", "content": ""}), *words, chunk({}, "stop"), last]
    return [b"data: %b\n\n" % _dump(each) for each in chunks] + [b"data: [DONE]\n\n"]


def _anthropic_events() -> list[bytes]:
    """A stream of EVENTS events as Anthropic sends it: start, words, stop, the whole usage, the end."""
    start = {
        **_ANTHROPIC_ANSWER,
        "content": [],
        "stop_reason": None,
        "usage": {"input_tokens": 40, "output_tokens": 1},
    }
    word = "content_block_delta"
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *(
            {"type": word, "index": 0, "delta": {"type": "text_delta", "text": f" word{n}"}}
            for n in range(EVENTS - 5)
        ),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 95},
        },
        {"type": "message_stop"},
    ]
    return [b"event: %b\ndata: %b\n\n" % (str(event["type"]).encode(), _dump(event)) for event in events]


def _whole(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Request-Id: req_1\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


_STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Request-Id: req_1\r\nTransfer-Encoding: chunked\r\n\r\n"
_ANSWERS = {False: _whole(_dump(_OPENAI_ANSWER)), True: _whole(_dump(_ANTHROPIC_ANSWER))}
_STREAMS = {False: _openai_events(), True: _anthropic_events()}


class Provider(asyncio.Protocol):
    """Answers `/v1/messages` as Anthropic and all else as OpenAI. Expects a request in one segment; checks nothing."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        """One request."""
        anthropic = data.startswith(b"POST /v1/messages")
        if b'"stream":true' in data:
            self._transport.write(_STREAM_HEAD)
            self._send_next(iter(_STREAMS[anthropic]))
        else:
            self._transport.write(_ANSWERS[anthropic])

    def _send_next(self, events: Iterator[bytes]) -> None:
        if self._transport.is_closing():
            return
        event = next(events, b"")
        self._transport.write(b"%x\r\n%b\r\n" % (len(event), event))
        if event:
            asyncio.get_running_loop().call_later(GAP_SECONDS, self._send_next, events)


async def run_provider(ready: Connection) -> None:
    """Serves until the process is ended."""
    server = await asyncio.get_running_loop().create_server(Provider, "127.0.0.1", 0, backlog=1024)
    ready.send((server.sockets[0].getsockname()[1], ""))
    await server.serve_forever()


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """The yardstick: the body back, or, for a stream, the provider's events from memory at the same gap."""
    body = (await receive())["body"]
    if b'"stream":true' not in body:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        return
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for event in _STREAMS[False]:
        await send({"type": "http.response.body", "body": event, "more_body": True})
        await asyncio.sleep(GAP_SECONDS)
    await send({"type": "http.response.body", "body": b""})


async def run_echo(ready: Connection) -> None:
    """Serves the echo until the process is ended."""
    await _serve(echo, ready, "")


async def run_gateway(ready: Connection, provider_port: int) -> None:
    """Serves a gateway with everything on until the process is ended: key, price, journal, metrics."""
    key = mint_key()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        current = Current()
        current.swap(_make_snapshot(key, provider_port))
        (place / "journal").mkdir()
        journal = Journal(place / "journal", instance="benchmark")
        allowed = {f"{SECRET_NAME}__ORIGIN": f"http://127.0.0.1:{provider_port}"}
        keyring = Keyring({SECRET_NAME: "a-secret", **allowed}, place)
        worker = Worker(GatewayConfig(data_dir=place, peppers={1: PEPPER}), current, journal, keyring)
        shared = SharedCounts(place / "metrics", "benchmark")
        worker.start(shared)
        await _serve(Gateway(worker, shared), ready, key)


def _make_snapshot(key: str, port: int) -> Snapshot:
    parts = find_key_parts(key)
    assert parts is not None
    rates = (("input", 2_500_000_000), ("cache_read", 1_250_000_000), ("output", 10_000_000_000))
    providers = tuple(
        ProviderSpec(
            id=kind,
            name=kind,
            kind=kind,
            endpoints=(EndpointSpec(f"{kind}-1", "http", "127.0.0.1", port),),
            credentials=(CredentialSpec(f"{kind}-key", "main", "env", SECRET_NAME),),
        )
        for kind in ("openai", "anthropic")
    )
    models = tuple(
        ModelSpec(f"{kind}-model", name, kind, f"{name}-upstream", price=PriceSpec("1", rates))
        for kind, name in (("openai", "same"), ("anthropic", "other"))
    )
    keys = (KeySpec(parts.key_id, "benchmark", (KeyDigestSpec(digest_key(key, PEPPER).hex()),)),)
    return Snapshot(1, time.time(), providers, models, (), keys)


async def _serve(application: Any, ready: Connection, key: str) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    ready.send((listener.getsockname()[1], key))
    config = uvicorn.Config(
        application, lifespan="off", log_level="warning", access_log=False, ws="none", http="httptools"
    )
    await uvicorn.Server(config).serve(sockets=[listener])


def _run(target: Callable[..., Any], *arguments: Any) -> None:
    uvloop.run(target(*arguments))


@dataclass(frozen=True, slots=True)
class Running:
    """A server under test: its process id, port and the key that it takes."""

    pid: int
    port: int
    key: str

    def cpu_seconds(self) -> float:
        """User and system time of the process so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


@contextmanager
def started(target: Callable[..., Any], *arguments: Any) -> Iterator[Running]:
    """A server in a process of its own; ended on leaving."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(target, theirs, *arguments), daemon=True)
    process.start()
    try:
        if not ours.poll(PATIENCE):
            raise TimeoutError(f"{target.__name__} did not start")
        port, key = ours.recv()
        yield Running(process.pid or 0, port, key)
    finally:
        process.terminate()
        process.join(PATIENCE)


@dataclass(frozen=True, slots=True)
class Case:
    """One row: what is asked of which server. `events` is 1 for whole answers; figures are CPU per event."""

    name: str
    server: Running
    model: str
    stream: bool
    yardstick: int

    @property
    def events(self) -> int:
        """What one request counts as."""
        return EVENTS if self.stream else 1

    def body(self) -> bytes:
        """The request's body: 300 bytes, two messages."""
        messages = [
            {"role": "system", "content": "You are a helpful assistant that answers briefly."},
            {
                "role": "user",
                "content": "Say hello to the world in three languages please. " * 2 + "How is the weather?",
            },
        ]
        body = {"model": self.model, "messages": messages, "max_tokens": 200, "temperature": 0.5}
        return _dump({**body, "stream": True} if self.stream else body)


def load_with_wrk(case: Case, seconds: float, concurrency: int) -> int:
    """Requests that wrk completed in `seconds`. Raises RuntimeError if one was refused or broke."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "post.lua"
        script.write_text(
            f"wrk.method='POST'\nwrk.body=[==[{case.body().decode()}]==]\n"
            f"wrk.headers['content-type']='application/json'\nwrk.headers['authorization']='Bearer {case.server.key}'\n"
        )
        url = f"http://127.0.0.1:{case.server.port}/v1/chat/completions"
        command = [
            "wrk",
            "-t1",
            f"-c{concurrency}",
            f"-d{seconds:g}s",
            "--timeout",
            "30s",
            "-s",
            str(script),
            url,
        ]
        told = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=seconds + PATIENCE
        ).stdout
    found = re.search(r"(\d+) requests in", told)
    if found is None or "Non-2xx" in told or "Socket errors" in told:
        raise RuntimeError(told)
    return int(found[1])


def load_with_asyncio(case: Case, seconds: float, concurrency: int) -> int:
    """The same without wrk, and for streams, since every request that began is brought to its end and counted."""
    return uvloop.run(_load(case, seconds, concurrency))


async def _load(case: Case, seconds: float, concurrency: int) -> int:
    until = time.monotonic() + seconds
    return sum(await asyncio.gather(*(_one_connection(case, until) for _ in range(concurrency))))


async def _one_connection(case: Case, until: float) -> int:
    body, done = case.body(), 0
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {case.server.key}\r\nContent-Length: {len(body)}\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", case.server.port, limit=1 << 20)
    async with asyncio.timeout(until - time.monotonic() + PATIENCE):
        while time.monotonic() < until:
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            if not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(answer.decode("latin-1"))
            length = re.search(rb"(?i)content-length: (\d+)", answer)
            await (reader.readexactly(int(length[1])) if length else reader.readuntil(b"\r\n0\r\n\r\n"))
            done += 1
    writer.close()
    return done


def measure(cases: list[Case], rounds: int, seconds: float, concurrency: int) -> list[list[float]]:
    """CPU microseconds per request or event: one list a case, one figure a round."""
    figures: list[list[float]] = [[] for _ in cases]
    for number in range(rounds + 1):
        for case, found in zip(cases, figures, strict=True):
            load = load_with_wrk if HAS_WRK and not case.stream else load_with_asyncio
            before = case.server.cpu_seconds()
            count = load(case, seconds if number else 1.0, concurrency)
            if number:  # The first round warms up.
                found.append((case.server.cpu_seconds() - before) / (count * case.events) * 1e6)
    return figures


def render(cases: list[Case], figures: list[list[float]]) -> str:
    """The Markdown table."""
    lines = ["| what | µs CPU | of | to its yardstick |", "|---|---|---|---|"]
    for case, found in zip(cases, figures, strict=True):
        ratio = statistics.median(
            mine / its for mine, its in zip(found, figures[case.yardstick], strict=True)
        )
        unit = "event" if case.stream else "request"
        lines.append(f"| {case.name} | {min(found):.1f} | {unit} | {ratio:.2f}× |")
    return "\n".join(lines)


def main() -> None:
    """Runs all cases and prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hot_path", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="of load, a case and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=64)
    given = parser.parse_args()
    with (
        started(run_provider) as provider,
        started(run_echo) as bare,
        started(run_gateway, provider.port) as gateway,
    ):
        cases = [
            Case("echo on the same server", bare, "same", stream=False, yardstick=0),
            Case("gateway, OpenAI → OpenAI", gateway, "same", stream=False, yardstick=0),
            Case("gateway, OpenAI → Anthropic", gateway, "other", stream=False, yardstick=0),
            Case("echo of a stream from memory", bare, "same", stream=True, yardstick=3),
            Case("gateway, stream, OpenAI → OpenAI", gateway, "same", stream=True, yardstick=3),
            Case("gateway, stream, OpenAI → Anthropic", gateway, "other", stream=True, yardstick=3),
        ]
        figures = measure(cases, given.rounds, given.seconds, given.concurrency)
    tool = "wrk (streams: an asyncio client)" if HAS_WRK else "an asyncio client"
    print(
        f"Python {platform.python_version()}, uvicorn {uvicorn.__version__}, {os.cpu_count()} CPUs, load by {tool}:",
        end=" ",
    )
    print(
        f"{given.concurrency} in flight, {given.rounds} rounds of {given.seconds:g} s\n\n{render(cases, figures)}"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
