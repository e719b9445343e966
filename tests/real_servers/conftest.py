"""Real inference servers behind a running installation; only with `-m real_server`, and only those whose address is given."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.e2e.catalogue import Accounts
from tests.e2e.service import Service

MODEL = "tiny"
"""What both servers call their model, see docs/acceptance.md."""
CONFIG = """
providers:
  - name: {name}
    kind: {kind}
    endpoints: ["{url}"]
    credentials: [{{name: none, source: none}}]
    profile: {profile}
models:
  - provider: {name}
    name: {name}-model
    upstream_name: {model}
    capabilities: [chat, streaming, tools, json_schema, completions]
    price: {{input: "1", output: "2"}}
"""


@dataclass(frozen=True, slots=True)
class RealServer:
    """A server: its name here, the kind and profile that it is declared with, and how to see whether it generates."""

    name: str
    kind: str
    profile: str
    variable: str
    count_running: Callable[[str], int]
    schemas: bool
    """Whether it holds answers to a JSON schema with the model that docs/acceptance.md serves."""


def count_vllm(url: str) -> int:
    """Requests that vLLM works on."""
    found = re.search(
        r"^vllm:num_requests_running\S* ([\d.]+)", httpx.get(f"{url}/metrics").text, re.MULTILINE
    )
    assert found, "vLLM's /metrics has no vllm:num_requests_running"
    return int(float(found[1]))


def count_llamacpp(url: str) -> int:
    """Requests that llama.cpp works on."""
    return sum(slot["is_processing"] for slot in httpx.get(f"{url}/slots").json())


SERVERS = (
    RealServer("vllm", "vllm", "{}", "TEST_VLLM_URL", count_vllm, schemas=True),
    RealServer(
        "llamacpp",
        "openai",
        "{max_tokens_field: max_tokens, developer_role: false, service_tier: false, top_k: true}",
        "TEST_LLAMACPP_URL",
        count_llamacpp,
        schemas=False,
    ),
)


@dataclass(frozen=True, slots=True)
class Behind:
    """A real server at `url`, reached past the gateway (`direct`) and through it, with either client."""

    server: RealServer
    url: str
    model: str
    gateway: Service
    direct: openai.OpenAI
    openai: openai.OpenAI
    anthropic: anthropic.Anthropic

    def count_running(self) -> int:
        """Requests that the server works on now."""
        return self.server.count_running(self.url)


def pytest_configure(config: pytest.Config) -> None:
    """Names this folder's own marker."""
    config.addinivalue_line(
        "markers", "real_server: needs a running inference server; only with -m real_server"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves these tests out unless they are asked for by name."""
    if "real_server" in config.getoption("markexpr"):
        return
    left_out = [item for item in items if item.get_closest_marker("real_server")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def find_url(server: RealServer, environment: Mapping[str, str]) -> str:
    """Where a server is. Fails where nobody said it, since a server that nobody tried must not look like one that works."""
    url = environment.get(server.variable, "").rstrip("/")
    if not url:
        pytest.fail(f"set {server.variable} to {server.name}'s address, see docs/acceptance.md")
    return url


@pytest.fixture(scope="module", params=SERVERS, ids=lambda server: str(server.name))
def behind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    """A fresh installation with one real server."""
    server: RealServer = request.param
    url = find_url(server, os.environ)
    plain: dict[str, Any] = {"max_retries": 0, "timeout": 60}
    declared = CONFIG.format(name=server.name, kind=server.kind, url=url, profile=server.profile, model=MODEL)
    with (
        Service(tmp_path_factory.mktemp(server.name)) as gateway,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", **plain) as direct,
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, **plain) as of_openai,
        anthropic.Anthropic(base_url=gateway.url, api_key=gateway.key, **plain) as of_anthropic,
    ):
        gateway.apply_config(declared)
        yield Behind(server, url, f"{server.name}-model", gateway, direct, of_openai, of_anthropic)


@pytest.fixture
def accounts(behind: Behind) -> Iterator[Accounts]:
    """What this test's calls cost, from here on."""
    with behind.gateway.administrator() as person:
        yield Accounts(behind.gateway, person, datetime.now(UTC))
