"""What is measured: a bare echo, the upstream itself, nginx as a proxy, Tokenhub as an operator runs it. Benchmarks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.accounting import Footprint, footprint
from benchmarks.hot_path import run_echo, started
from benchmarks.load import Pool, Tally, Target, ask_once, run_fast
from benchmarks.upstreams import Upstreams, free_ports, nginx, proxy_servers
from benchmarks.workload import Kind, request_body
from tests.e2e.service import Service

CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}
CREDENTIAL = "sk-bench-0123456789abcdef"
_VARIABLE = "TOKENHUB_CRED_BENCH"
_PAIRS: tuple[tuple[str, str], ...] = (
    ("text", "openai"),
    ("tools", "openai"),
    ("stream", "openai"),
    ("held", "openai"),
    ("text", "anthropic"),
    ("tools", "anthropic"),
    ("stream", "anthropic"),
)
"""Upstream and wire format of each model; its name is the two joined."""

FindTarget = Callable[[Kind, bool], Target | None]


def model_name(kind: Kind, translated: bool) -> str:
    """The model that stands for an upstream: `text-openai`, `stream-anthropic`, ..."""
    upstream = "text" if kind in ("prompt", "image") else kind
    return f"{upstream}-{'anthropic' if translated else 'openai'}"


@dataclass(frozen=True, slots=True)
class Subject:
    """A running thing to measure. `pid` is 0 where its CPU says nothing; `start_seconds` is from its start to its first whole
    answer, `idle` what it held then.
    """

    name: str
    pid: int
    find_target: FindTarget
    start_seconds: float | None = None
    idle: Footprint | None = None
    service: Service | None = None

    def target(self, kind: Kind, *, translated: bool = False) -> Target | None:
        """The request for this kind of traffic, or None where the subject does not do it."""
        return self.find_target(kind, translated)


async def _ask(target: Target, tally: Tally, seconds: float) -> None:
    pool = Pool(target.port)
    async with asyncio.timeout(seconds):
        await ask_once(pool, target.message(), tally, time.perf_counter())
    pool.close()


def ask_first(target: Target, seconds: float, began: float) -> float:
    """Asks until a whole 200 comes; seconds since `began`. Raises RuntimeError with the last refusal after `seconds`."""
    while True:
        tally = Tally()
        run_fast(_ask(target, tally, seconds))
        now = time.monotonic()
        if tally.completed:
            return now - began
        if now - began > seconds:
            raise RuntimeError(f"{target.path} on port {target.port}: {tally.reasons}")
        time.sleep(0.02)


@contextmanager
def start_echo() -> Iterator[Subject]:
    """uvicorn with a bare ASGI application that sends the body back, and a stream from memory."""
    with started(run_echo) as running:

        def find(kind: Kind, translated: bool) -> Target | None:
            # It reads one segment, so long bodies are not for it.
            if translated or kind not in ("text", "stream"):
                return None
            return Target(running.port, CHAT, JSON, request_body(kind, model_name(kind, translated)))

        yield Subject("echo (uvicorn)", running.pid, find)


def make_direct(upstreams: Upstreams) -> Subject:
    """The upstream without anything between."""

    def find(kind: Kind, translated: bool) -> Target | None:
        if translated:
            return None
        return Target(upstreams.port(kind), CHAT, JSON, request_body(kind, model_name(kind, translated)))

    return Subject("direct", 0, find)


@contextmanager
def start_nginx_proxy(folder: Path, upstreams: Upstreams) -> Iterator[Subject]:
    """nginx, one worker, passing on as it comes."""
    ports = free_ports(4)
    origins = upstreams.ports()
    through = dict(zip(origins, ports, strict=False))
    with nginx(folder / "proxy", proxy_servers(ports, origins), ports[0]) as process:

        def find(kind: Kind, translated: bool) -> Target | None:
            if translated:
                return None
            body = request_body(kind, model_name(kind, translated))
            return Target(through[upstreams.port(kind)], CHAT, JSON, body)

        yield Subject("nginx", process.pid, find)


def declare(upstreams: Upstreams) -> str:
    """Tokenhub's configuration: one provider and one priced model for each upstream and wire format."""
    lines = ["providers:"]
    for upstream, wire in _PAIRS:
        port = getattr(upstreams, upstream)
        lines += [
            f"  - name: {upstream}-{wire}",
            f"    kind: {wire}",
            f"    endpoints: ['http://127.0.0.1:{port}']",
            f"    credentials: [{{name: main, source: env, reference: {_VARIABLE}}}]",
        ]
    lines += ["models:"]
    for upstream, wire in _PAIRS:
        lines += [
            f"  - provider: {upstream}-{wire}",
            f"    name: {upstream}-{wire}",
            f"    upstream_name: {'gpt-4o' if wire == 'openai' else 'claude-sonnet'}",
            "    context_tokens: 200000",
            "    max_output_tokens: 16384",
            "    capabilities: [chat, streaming, tools, vision]",
            '    price: {input: "2", cache_read: "0.2", output: "8"}',
        ]
    return "\n".join(lines) + "\n"


@contextmanager
def start_tokenhub(
    folder: Path, upstreams: Upstreams, *, workers: int, database: str, database_url: str = ""
) -> Iterator[Subject]:
    """`manage.py bootstrap` and `manage.py serve` with everything on; `database` is for its name only."""
    environment = {
        _VARIABLE: CREDENTIAL,
        f"{_VARIABLE}__ORIGIN": ",".join(
            sorted({f"http://127.0.0.1:{getattr(upstreams, upstream)}" for upstream, _ in _PAIRS})
        ),
        "TOKENHUB_SIMULATED_PROVIDER": "false",
        "TOKENHUB_LOG_LEVEL": "warning",
    }
    if database_url:
        environment["TOKENHUB_DATABASE_URL"] = database_url
    service = Service(folder / f"tokenhub-{database}-{workers}", workers, environment)
    service.folder.mkdir(parents=True)
    service.config_path.write_text(declare(upstreams))
    headers = {**JSON, "authorization": f"Bearer {service.key}"}

    def find(kind: Kind, translated: bool) -> Target | None:
        return Target(service.port, CHAT, headers, request_body(kind, model_name(kind, translated)))

    service.prepare()
    try:
        began = time.monotonic()
        service.start()
        target = find("text", False)
        assert target is not None
        took = ask_first(target, 60, began)
        time.sleep(1)
        name = f"Tokenhub {workers} worker{'s' if workers > 1 else ''}, {database}"
        yield Subject(name, service.process.pid, find, took, footprint(service.process.pid), service)
        service.terminate()
    finally:
        service.kill()
