"""A provider that says with a good answer that nothing is left of a limit is left alone until then, before it has to refuse."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from providers.mock import MockProvider
from tests.builders import a_key, a_model, a_provider, a_snapshot, an_alias
from tests.fakes.raw_server import RawConnection, serve
from tests.gateway.calls import a_body, call
from tests.gateway.serving import running_gateway
from tokenhub.core.rate_limits import read_exhausted

ANSWER = json.dumps(
    {
        "object": "chat.completion",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 1},
    }
).encode()


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"x-ratelimit-remaining-requests": "9999", "x-ratelimit-reset-requests": "6ms"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m26.4s"}, 86.4),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "2s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "7s",
            },
            7.0,
        ),
        (
            {
                "x-ratelimit-remaining-requests": "5",
                "x-ratelimit-reset-requests": "90s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "7s",
            },
            7.0,
        ),
        ({"x-ratelimit-remaining-requests": "0"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "0s"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "soon"}, None),
        (
            {
                "date": "Wed, 25 Nov 2026 10:00:00 GMT",
                "anthropic-ratelimit-input-tokens-remaining": "0",
                "anthropic-ratelimit-input-tokens-reset": "2026-11-25T10:00:30Z",
            },
            30.0,
        ),
    ],
)
def test_only_a_limit_of_which_nothing_is_left_counts(headers: dict[str, str], seconds: float | None) -> None:
    found = read_exhausted({name.encode(): value.encode() for name, value in headers.items()})
    assert found == (None if seconds is None else pytest.approx(seconds))


async def test_requests_go_elsewhere_before_the_provider_refuses(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    async def script(connection: RawConnection) -> None:
        await connection.request()
        connection.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
            b"x-ratelimit-remaining-requests: 0\r\nx-ratelimit-reset-requests: 30s\r\n"
            b"content-length: %d\r\n\r\n" % len(ANSWER) + ANSWER
        )

    async with serve(script) as raw:
        providers = (a_provider("one", "openai", raw.port), a_provider("two", "openai", mock.port))
        models = tuple(a_model(provider, f"at-{provider.name}") for provider in providers)
        key, text = a_key()
        snapshot = a_snapshot(
            providers=providers, models=models, aliases=(an_alias("work", *models),), keys=(key,)
        )
        async with running_gateway(snapshot, tmp_path) as gateway:
            served = []
            for _ in range(3):
                answer = await call(http, gateway, text, "openai", a_body("openai", "work"))
                assert answer.status == 200
                served.append(answer.headers["x-tokenhub-provider"])
            assert served == ["one", "two", "two"]
            [credential] = gateway.worker.board.report()["credentials"]
            assert 29 < credential["rest"] <= 30
