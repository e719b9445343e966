"""What stands behind everything that is measured: nginx with canned answers, the mock provider for streams. Benchmarks."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.workload import (
    HELD_GAP_MS,
    HELD_TOKENS,
    STREAM_EVENTS,
    STREAM_GAP_MS,
    Kind,
    anthropic_answer,
    openai_answer,
)
from providers.mock import mock_process

START_SECONDS = 20.0
_STOP_SECONDS = 20.0
# OpenAI's stream has four events besides its words: the role, the finish, the usage and the end mark.
_WORDS = STREAM_EVENTS - 4

_NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; {user}
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 600s;
  client_max_body_size 64m; client_body_buffer_size 1m; default_type application/json;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  {servers}
}}
"""
_HEADERS = "".join(
    f"add_header {name} {value}; "
    for name, value in (
        ("x-request-id", "req_0123456789abcdef"),
        ("openai-processing-ms", "412"),
        ("x-ratelimit-limit-requests", "10000"),
        ("x-ratelimit-remaining-requests", "9999"),
    )
)
_CANNED = """
  server {{ listen 127.0.0.1:{port}; {headers}
    location = /v1/messages {{ return 200 '{anthropic}'; }}
    location / {{ return 200 '{openai}'; }} }}
"""
_PROXY = """
  upstream to{port} {{ server 127.0.0.1:{origin}; keepalive 256; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{port};
    location / {{ proxy_pass http://to{port}; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }} }}
"""


@dataclass(frozen=True, slots=True)
class Upstreams:
    """Ports of the upstreams. `mock` says whether the canned answers come from the mock, for want of nginx."""

    text: int
    tools: int
    stream: int
    held: int
    mock: bool

    def port(self, kind: Kind) -> int:
        """The upstream that answers this kind of request."""
        return {"tools": self.tools, "stream": self.stream, "held": self.held}.get(kind, self.text)

    def ports(self) -> tuple[int, ...]:
        """All of them."""
        return self.text, self.tools, self.stream, self.held


def free_ports(count: int) -> list[int]:
    """As many different ports that nobody listens on."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def wait_for_port(
    port: int, process: subprocess.Popen[bytes], seconds: float, log: Path | None = None
) -> None:
    """Returns when something listens. Raises RuntimeError with the end of the log if it does not."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    told = log.read_text(errors="replace")[-3000:] if log is not None and log.exists() else ""
    raise RuntimeError(
        f"port {port}: nothing listens after {seconds:g} s (exit code {process.poll()})\n{told}"
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL to its process group where that is not enough."""
    process.terminate()
    try:
        process.wait(timeout=_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=_STOP_SECONDS)


@contextmanager
def nginx(folder: Path, servers: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """An nginx of one worker with these servers, once `port` answers."""
    folder.mkdir(parents=True)
    user = "user root;" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, user=user, servers=servers))
    command = ["nginx", "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(config)]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        wait_for_port(port, process, START_SECONDS, folder / "error.log")
        yield process
    finally:
        stop(process)


def proxy_servers(ports: Sequence[int], origins: Sequence[int]) -> str:
    """The configuration of an nginx that passes each port on to its origin."""
    return "".join(
        _PROXY.format(port=port, origin=origin) for port, origin in zip(ports, origins, strict=True)
    )


def _quoted(answer: bytes) -> str:
    """As nginx's configuration wants it between single quotes."""
    return answer.decode().replace("\\", "\\\\")


@contextmanager
def start_upstreams(folder: Path) -> Iterator[Upstreams]:
    """The upstreams of a run; ended on leaving."""
    with ExitStack() as stack:
        stream = stack.enter_context(mock_process(tokens=_WORDS, gap=STREAM_GAP_MS / 1000))
        held = stack.enter_context(mock_process(tokens=HELD_TOKENS, gap=HELD_GAP_MS / 1000))
        if shutil.which("nginx") is None:
            plain = stack.enter_context(mock_process(tokens=20))
            yield Upstreams(plain.port, plain.port, stream.port, held.port, mock=True)
            return
        text, tools = free_ports(2)
        servers = "".join(
            _CANNED.format(
                port=port,
                headers=_HEADERS,
                openai=_quoted(openai_answer(tools=calls)),
                anthropic=_quoted(anthropic_answer(tools=calls)),
            )
            for port, calls in ((text, False), (tools, True))
        )
        stack.enter_context(nginx(folder / "canned", servers, text))
        yield Upstreams(text, tools, stream.port, held.port, mock=False)
