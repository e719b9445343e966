"""Other gateways, installed from their registries into a cache folder, and started as their own documents say. Benchmarks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.accounting import footprint
from benchmarks.load import Target
from benchmarks.subjects import CHAT, CREDENTIAL, JSON, Subject, ask_first, model_name
from benchmarks.upstreams import Upstreams, free_ports, stop
from benchmarks.workload import Kind, request_body

NAMES = ("LiteLLM", "Portkey")
_INSTALL_SECONDS = 900
_START_SECONDS = 120
_MASTER_KEY = "sk-bench-0123456789abcdef0123456789abcdef"
_PORTKEY = "@portkey-ai/gateway"
# Newer ones of these break its streams with a 500 "immutable"; its own lock file has these.
_PORTKEY_PINS = ("hono@4.9.7", "@hono/node-server@1.13.5", "@hono/node-ws@1.2.0")


class PeerUnavailable(RuntimeError):
    """A peer can't be installed or started here; the message says why."""


def _install(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_INSTALL_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerUnavailable(f"{command[0]}: {error}") from error
    if done.returncode:
        raise PeerUnavailable(f"{' '.join(command)}\n{(done.stdout + done.stderr)[-2000:]}")


def install_litellm(folder: Path) -> tuple[Path, str]:
    """Its program and version, from a virtual environment of its own that is made if it is not there."""
    place = folder / "litellm"
    program = place / "bin" / "litellm"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _install([sys.executable, "-m", "venv", str(place)], folder)
        _install([str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "litellm[proxy]"], folder)
    ask = "import importlib.metadata as m; print(m.version('litellm'))"
    told = subprocess.run([place / "bin" / "python", "-c", ask], capture_output=True, text=True, timeout=60)
    return program, told.stdout.strip()


def install_portkey(folder: Path) -> tuple[Path, str]:
    """Its script and version, from a package folder of its own that is made if it is not there."""
    place = folder / "portkey"
    package = place / "node_modules" / _PORTKEY
    if not (package / "build" / "start-server.js").exists():
        place.mkdir(parents=True, exist_ok=True)
        (place / "package.json").write_text('{"name": "bench", "private": true}')
        _install(["npm", "install", "--no-audit", "--no-fund", _PORTKEY, *_PORTKEY_PINS], place)
    version = json.loads((package / "package.json").read_text())["version"]
    return package / "build" / "start-server.js", str(version)


def _litellm_config(upstreams: Upstreams) -> str:
    models = []
    for kind in ("text", "tools", "stream", "held"):
        origin = f"http://127.0.0.1:{getattr(upstreams, kind)}"
        models += [
            (f"{kind}-openai", "openai/gpt-4o", f"{origin}/v1"),
            (f"{kind}-anthropic", "anthropic/claude-3-5-sonnet-20241022", origin),
        ]
    declared = [
        {"model_name": name, "litellm_params": {"model": model, "api_base": base, "api_key": CREDENTIAL}}
        for name, model, base in models
    ]
    # JSON is YAML.
    return json.dumps({"model_list": declared, "litellm_settings": {"telemetry": False}})


@contextmanager
def _running(
    command: list[str], environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env={**os.environ, **environment}, start_new_session=True
        )
    try:
        yield process
    finally:
        stop(process)


@contextmanager
def start_litellm(cache: Path, folder: Path, upstreams: Upstreams) -> Iterator[Subject]:
    """LiteLLM's proxy with one worker, no database, its master key as the caller's key."""
    program, _ = install_litellm(cache)
    config = folder / "litellm.yaml"
    config.write_text(_litellm_config(upstreams))
    port = free_ports(1)[0]
    command = [
        str(program),
        "--config",
        str(config),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--num_workers",
        "1",
    ]
    environment = {
        "LITELLM_MASTER_KEY": _MASTER_KEY,
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MODE": "PRODUCTION",
    }
    headers = {**JSON, "authorization": f"Bearer {_MASTER_KEY}"}

    def find(kind: Kind, translated: bool) -> Target | None:
        return Target(port, CHAT, headers, request_body(kind, model_name(kind, translated)))

    with _started("LiteLLM", command, environment, folder / "litellm.log", find("text", False)) as found:
        yield Subject("LiteLLM 1 worker", found.pid, find, found.start_seconds, found.idle)


@contextmanager
def start_portkey(cache: Path, folder: Path, upstreams: Upstreams) -> Iterator[Subject]:
    """Portkey's gateway, one node process; it keeps no keys, the provider is named in headers."""
    script, _ = install_portkey(cache)
    port = free_ports(1)[0]
    command = ["node", str(script), f"--port={port}", "--headless"]

    def find(kind: Kind, translated: bool) -> Target | None:
        headers = {
            **JSON,
            "authorization": f"Bearer {CREDENTIAL}",
            "x-portkey-provider": "anthropic" if translated else "openai",
            "x-portkey-custom-host": f"http://127.0.0.1:{upstreams.port(kind)}/v1",
        }
        return Target(port, CHAT, headers, request_body(kind, model_name(kind, translated)))

    with _started("Portkey", command, {}, folder / "portkey.log", find("text", False)) as found:
        yield Subject("Portkey", found.pid, find, found.start_seconds, found.idle)


@contextmanager
def _started(
    name: str, command: list[str], environment: Mapping[str, str], log: Path, target: Target | None
) -> Iterator[Subject]:
    assert target is not None
    began = time.monotonic()
    with _running(command, environment, log) as process:
        try:
            took = ask_first(target, _START_SECONDS, began)
        except RuntimeError as error:
            told = log.read_text(errors="replace")[-2000:]
            raise PeerUnavailable(f"{name} does not answer: {error}\n{told}") from error
        time.sleep(1)
        yield Subject(name, process.pid, lambda kind, translated: None, took, footprint(process.pid))
