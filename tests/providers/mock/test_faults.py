"""Every fault as a raw client sees it, and the record that the mock keeps of it."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from providers.mock import MockProvider, closed_port
from providers.mock.faults import DEFAULTS, Fault, find_fault, find_in_model

SILENCE_SECONDS = 0.3


@pytest.fixture
async def mock() -> AsyncIterator[MockProvider]:
    async with MockProvider(tokens=10) as started:
        yield started


@pytest.fixture
async def client(mock: MockProvider) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=mock.origin, timeout=10) as made:
        yield made


def chat(model: str = "m", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hello"}], **more}


def message(model: str = "m", **more: Any) -> dict[str, Any]:
    return {"max_tokens": 100, **chat(model, **more)}


VERSION = {"anthropic-version": "2023-06-01"}
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"


class Caught:
    """What came of a streamed request: status, text so far, and the error that ended it."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.text = ""
        self.error: httpx.HTTPError | None = None

    def contents(self) -> list[str]:
        """The text of each OpenAI content event that can be read."""
        made = []
        for line in self.text.split("\n\n"):
            data = line.removeprefix("data: ")
            if '"content":"' in data and data.endswith("}"):
                made.append(json.loads(data)["choices"][0]["delta"].get("content") or "")
        return [text for text in made if text]


async def stream(client: httpx.AsyncClient, path: str, body: dict[str, Any], **options: Any) -> Caught:
    caught = Caught()
    try:
        async with client.stream("POST", path, json={**body, "stream": True}, **options) as response:
            caught.status = response.status_code
            async for text in response.aiter_text():
                caught.text += text
    except httpx.HTTPError as error:
        caught.error = error
    return caught


# How a fault is named


@pytest.mark.parametrize(
    ("model", "fault"),
    [
        ("fault-cut", Fault("cut", 3)),
        ("fault-cut-7", Fault("cut", 7)),
        ("fault-cut-0", Fault("cut", 0)),
        ("fault-429", Fault("429", 1)),
        ("fault-429-30", Fault("429", 30)),
        ("fault-429-no-header", Fault("429-no-header")),
        ("fault-error-event", Fault("error-event")),
        ("fault-error-event-2", Fault("error-event", 2)),
        ("fault-malformed-cut-2", Fault("malformed-cut", 2)),
        ("fault-silent-after-head", Fault("silent-after-head")),
        ("sim-small@stall:2", Fault("stall", 2)),
        ("sim-small@stall@2", Fault("stall", 2)),
        ("sim-small@529", Fault("529")),
        ("vllm-fault-500", Fault("500")),
        ("some/fault-500", Fault("500")),
        ("claude@20240229", None),
        ("gpt-4o", None),
        ("fault-unheard-of", None),
    ],
)
def test_a_model_names_its_fault(model: str, fault: Fault | None) -> None:
    assert find_in_model(model) == fault


def test_every_fault_is_found_by_its_own_name() -> None:
    assert all(find_fault(name) == Fault(name, k) for name, k in DEFAULTS.items())


async def test_a_header_names_a_fault_and_wins_over_the_model(client: httpx.AsyncClient) -> None:
    answer = await client.post(CHAT, json=chat("fault-500"), headers={"x-mock-fault": "429:7"})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")


async def test_scheduled_faults_are_used_up_in_order(client: httpx.AsyncClient) -> None:
    await client.post("/_faults", json={"fault": "503", "count": 2})
    await client.post("/_faults", json={"fault": "500", "count": 1, "path": MESSAGES})
    assert (await client.get("/v1/models")).status_code == 200
    assert [(await client.post(CHAT, json=chat())).status_code for _ in range(3)] == [503, 503, 200]
    assert (await client.post(MESSAGES, json=message(), headers=VERSION)).status_code == 500
    assert (await client.get("/_faults")).json() == {"scheduled": []}


async def test_scheduled_faults_can_be_cleared_and_unknown_ones_are_refused(
    client: httpx.AsyncClient,
) -> None:
    assert (await client.post("/_faults", json={"fault": "nonsense"})).status_code == 400
    await client.post("/_faults", json={"fault": "500", "count": 5})
    await client.delete("/_faults")
    assert (await client.post(CHAT, json=chat())).status_code == 200


# What each fault does


async def test_refused(client: httpx.AsyncClient) -> None:
    with closed_port() as port, pytest.raises(httpx.ConnectError):
        await client.get(f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize("streamed", [False, True])
async def test_reset_closes_by_rst_before_any_byte(mock: MockProvider, streamed: bool) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", mock.port)
    body = json.dumps(chat("fault-reset", stream=streamed)).encode()
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    )
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    record = mock.calls()[0]
    assert (record.status, record.finished, record.closed_by_client, record.fault) == (
        None,
        False,
        False,
        "reset",
    )


async def test_silent_never_answers_and_sees_the_client_leave(
    client: httpx.AsyncClient, mock: MockProvider
) -> None:
    with pytest.raises(httpx.ReadTimeout):
        await client.post(CHAT, json=chat("fault-silent"), timeout=SILENCE_SECONDS)
    await mock.until(lambda seen: seen["closed_by_client"] == 1)
    assert mock.calls()[0].bytes_sent == 0


@pytest.mark.parametrize("streamed", [False, True])
async def test_silent_after_head_sends_a_200_and_nothing_more(
    client: httpx.AsyncClient, streamed: bool
) -> None:
    body = chat("fault-silent-after-head", stream=streamed)
    async with client.stream("POST", CHAT, json=body, timeout=SILENCE_SECONDS) as response:
        assert response.status_code == 200
        with pytest.raises(httpx.ReadTimeout):
            await response.aread()


@pytest.mark.parametrize("k", [0, 2])
async def test_cut_closes_after_k_content_events(
    client: httpx.AsyncClient, mock: MockProvider, k: int
) -> None:
    caught = await stream(client, CHAT, chat(f"fault-cut-{k}"))
    assert caught.status == 200
    assert isinstance(caught.error, httpx.RemoteProtocolError)
    assert len(caught.contents()) == k
    assert '"role":"assistant"' in caught.text
    record = mock.calls()[0]
    assert (record.output_tokens, record.finished, record.closed_by_client) == (k, False, False)


async def test_cut_of_a_body_sends_half_of_it(client: httpx.AsyncClient) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await client.post(CHAT, json=chat("fault-cut"))


async def test_cut_works_on_anthropics_events_too(client: httpx.AsyncClient) -> None:
    caught = await stream(client, MESSAGES, message("fault-cut-2"), headers=VERSION)
    assert caught.text.count("text_delta") == 2
    assert "message_stop" not in caught.text
    assert isinstance(caught.error, httpx.RemoteProtocolError)


@pytest.mark.parametrize("streamed", [False, True])
async def test_stall_goes_silent_in_the_middle(
    client: httpx.AsyncClient, mock: MockProvider, streamed: bool
) -> None:
    if streamed:
        caught = await stream(client, CHAT, chat("fault-stall-2"), timeout=SILENCE_SECONDS)
        assert isinstance(caught.error, httpx.ReadTimeout)
        assert len(caught.contents()) == 2
    else:
        with pytest.raises(httpx.ReadTimeout):
            await client.post(CHAT, json=chat("fault-stall"), timeout=SILENCE_SECONDS)
    assert (await mock.until(lambda seen: seen["closed_by_client"] == 1))["in_progress"] == 0


def unreadable_events(text: str) -> list[str]:
    broken = []
    for event in filter(None, text.split("\n\n")):
        data = event.split("data: ", 1)[1]
        try:
            json.loads(data)
        except ValueError:
            if data != "[DONE]":
                broken.append(data)
    return broken


async def test_malformed_puts_in_one_unreadable_event_and_goes_on(client: httpx.AsyncClient) -> None:
    openai = await stream(client, CHAT, chat("fault-malformed-2"))
    anthropic = await stream(client, MESSAGES, message("fault-malformed-2"), headers=VERSION)
    assert openai.error is anthropic.error is None
    assert len(unreadable_events(openai.text)) == len(unreadable_events(anthropic.text)) == 1
    assert len(openai.contents()) == 10
    assert openai.text.endswith("data: [DONE]\n\n")
    assert '"type":"message_stop"' in anthropic.text


async def test_malformed_cut_closes_after_the_unreadable_event(client: httpx.AsyncClient) -> None:
    caught = await stream(client, CHAT, chat("fault-malformed-cut-2"))
    assert isinstance(caught.error, httpx.RemoteProtocolError)
    assert len(caught.contents()) == 2
    assert len(unreadable_events(caught.text)) == 1


async def test_truncated_ends_properly_in_half_an_event(client: httpx.AsyncClient) -> None:
    caught = await stream(client, CHAT, chat("fault-truncated-2"))
    assert caught.error is None
    assert len(caught.contents()) == 2
    assert not caught.text.endswith("\n\n")


@pytest.mark.parametrize(("model", "contents"), [("fault-error-event", 0), ("fault-error-event-2", 2)])
async def test_error_event_breaks_off_with_the_vendors_event(
    client: httpx.AsyncClient, model: str, contents: int
) -> None:
    caught = await stream(client, CHAT, chat(model))
    assert (caught.status, len(caught.contents()), caught.error) == (200, contents, None)
    last = json.loads(caught.text.strip().split("\n\n")[-1].removeprefix("data: "))
    assert last["error"]["type"] == "server_error"
    anthropic = await stream(client, MESSAGES, message(model), headers=VERSION)
    assert anthropic.text.count("text_delta") == contents
    name, data = anthropic.text.strip().split("\n\n")[-1].split("\n")
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"]["type"] == "overloaded_error"


async def test_vllm_ends_a_broken_stream_with_done(client: httpx.AsyncClient) -> None:
    caught = await stream(client, CHAT, chat("vllm-fault-error-event-2"))
    error, done = caught.text.strip().split("\n\n")[-2:]
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == 500
    assert done == "data: [DONE]"


async def test_empty_is_a_200_without_a_byte(client: httpx.AsyncClient) -> None:
    answer = await client.post(CHAT, json=chat("fault-empty"))
    assert (answer.status_code, answer.content) == (200, b"")
    caught = await stream(client, CHAT, chat("fault-empty"))
    assert (caught.status, caught.text, caught.error) == (200, "", None)


@pytest.mark.parametrize("streamed", [False, True])
async def test_bodies_that_are_no_answer(client: httpx.AsyncClient, streamed: bool) -> None:
    broken = await client.post(CHAT, json=chat("fault-bad-json", stream=streamed))
    assert broken.status_code == 200
    with pytest.raises(ValueError, match="Unterminated string"):
        broken.json()
    null = await client.post(CHAT, json=chat("fault-null-body", stream=streamed))
    assert (null.status_code, null.json()) == (200, None)
    page = await client.post(CHAT, json=chat("fault-html", stream=streamed))
    assert page.headers["content-type"] == "text/html"


@pytest.mark.parametrize(
    ("fault", "status", "openai_type", "anthropic_type"),
    [
        ("context", 400, "invalid_request_error", "invalid_request_error"),
        ("401", 401, "invalid_request_error", "authentication_error"),
        ("403", 403, "request_forbidden", "permission_error"),
        ("429", 429, "requests", "rate_limit_error"),
        ("429-no-header", 429, "requests", "rate_limit_error"),
        ("500", 500, "server_error", "api_error"),
        ("503", 503, "server_error", "api_error"),
        ("529", 529, "server_error", "overloaded_error"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_error_statuses_have_the_vendors_bodies(
    client: httpx.AsyncClient, fault: str, status: int, openai_type: str, anthropic_type: str, streamed: bool
) -> None:
    openai = await client.post(CHAT, json=chat(f"fault-{fault}", stream=streamed))
    anthropic = await client.post(MESSAGES, json=message(f"fault-{fault}", stream=streamed), headers=VERSION)
    vllm = await client.post(CHAT, json=chat(f"vllm-fault-{fault}", stream=streamed))
    assert openai.status_code == anthropic.status_code == vllm.status_code == status
    assert openai.json()["error"]["type"] == openai_type
    assert anthropic.json()["error"]["type"] == anthropic_type
    if status != 401:
        assert vllm.json()["error"]["code"] == status
    expected = "1" if fault == "429" else None
    assert openai.headers.get("retry-after") == anthropic.headers.get("retry-after") == expected


async def test_context_speaks_each_vendors_words(client: httpx.AsyncClient) -> None:
    openai = (await client.post(CHAT, json=chat("fault-context"))).json()["error"]
    vllm = (await client.post(CHAT, json=chat("vllm-fault-context"))).json()["error"]
    assert openai["code"] == "context_length_exceeded"
    assert (vllm["code"], vllm["param"]) == (400, "input_tokens")
    assert all("maximum context length is 200000 tokens" in error["message"] for error in (openai, vllm))


async def test_slow_waits_before_the_answer(client: httpx.AsyncClient) -> None:
    with pytest.raises(httpx.ReadTimeout):
        await client.post(CHAT, json=chat("fault-slow-60000"), timeout=SILENCE_SECONDS)
    assert (await client.post(CHAT, json=chat("fault-slow-1"))).status_code == 200


async def test_huge_head_sends_a_header_of_k_kibibytes(mock: MockProvider) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", mock.port)
    body = json.dumps(chat("fault-huge-head-200")).encode()
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n")
    writer.write(b"content-length: %d\r\n\r\n" % len(body) + body)
    head, _, rest = (await reader.read(-1)).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    assert len(head) > 200 * 1024
    assert json.loads(rest)["object"] == "chat.completion"


async def test_no_usage_leaves_usage_out_everywhere(client: httpx.AsyncClient, mock: MockProvider) -> None:
    asked = {"stream_options": {"include_usage": True}}
    texts = [
        (await client.post(CHAT, json=chat("fault-no-usage"))).text,
        (await client.post(MESSAGES, json=message("fault-no-usage"), headers=VERSION)).text,
        (await stream(client, CHAT, chat("fault-no-usage", **asked))).text,
        (await stream(client, MESSAGES, message("fault-no-usage"), headers=VERSION)).text,
    ]
    assert all("usage" not in text.replace("no-usage", "") for text in texts)
    assert mock.stats()["usage"]["output_tokens"] == 40


async def test_late_usage_holds_back_only_what_follows_the_content(mock: MockProvider) -> None:
    async with httpx.AsyncClient(base_url=mock.origin, timeout=SILENCE_SECONDS) as client:
        asked = {"stream_options": {"include_usage": True}}
        late = await stream(client, CHAT, chat("fault-late-usage-60000", **asked))
        assert isinstance(late.error, httpx.ReadTimeout)
        assert len(late.contents()) == 10
        assert '"finish_reason":"stop"' in late.text
        assert '"usage":{' not in late.text
        done = await stream(client, CHAT, chat("fault-late-usage-1", **asked))
        assert '"usage":{' in done.text
        assert done.text.endswith("[DONE]\n\n")
