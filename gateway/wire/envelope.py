"""Tokenhub's own envelope as a consumer format: POST /v1/chat. Data plane.

A request says what it wants of routing and of the answer (`capabilities`, `policy`, `orchestration`, `output_format`) beside the
chat itself (`request`), which is OpenAI's in its messages, tools and parameters. The answer has the provider's, in OpenAI's
shape, in `response`, and beside it what it cost and why it came from there. Nothing is passed on unseen: a member that is not
known here is refused by its JSON path, since one that is misspelt would be a wish that nobody hears.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, ClassVar, Final

import msgspec

from gateway.directives import (
    BUDGET,
    ITERATIONS,
    LATENCY,
    MAX_TOKENS,
    MIN_WEIGHT,
    MODE,
    OUTPUT,
    OUTPUT_SCHEMA,
    POLICY,
    REVIEW_MIN_WEIGHT,
    STRIP_THINK,
    Directives,
    Setting,
    read_setting,
)
from gateway.wire._openai_errors import describe_failure, to_plain
from gateway.wire._openai_fields import Fields, refused
from gateway.wire._openai_read import read_chat_call
from gateway.wire._openai_write import ChatStreamEncoder, write_chat_answer, write_usage
from gateway.wire.base import Figures, StreamEncoder, WireFormat
from gateway.wire.openai_chat import OpenAIChat
from providers.adapters.base import Failure, Operation
from tokenhub.core.chat import ChatAnswer, ChatCall
from tokenhub.core.errors import InvalidRequest, TokenhubError
from tokenhub.core.money import usd_from_nanos
from tokenhub.core.sse import format_event

ANY_MODEL: Final = "auto"
"""What is asked where a request hints at no model."""

PROBLEM: Final = b"application/problem+json"
MOST_CAPABILITIES: Final = 32
LONGEST_ID: Final = 200
MOST_META: Final = 64
MOST_INPUT_TOKENS: Final = 100_000_000

_OUTER: Final = frozenset({"capabilities", "policy", "request", "orchestration", "output_format"})
_REQUEST: Final = frozenset(
    {
        "id",
        "messages",
        "model_hint",
        "estimated_input_tokens",
        "parameters",
        "stream",
        "tools",
        "output_schema",
        "meta",
    }
)
_PARAMETERS: Final = frozenset(
    {
        "frequency_penalty",
        "max_completion_tokens",
        "max_tokens",
        "n",
        "parallel_tool_calls",
        "presence_penalty",
        "reasoning",
        "reasoning_effort",
        "seed",
        "service_tier",
        "stop",
        "temperature",
        "thinking",
        "tool_choice",
        "top_k",
        "top_p",
        "user",
    }
)
"""OpenAI's parameters that every provider's format can be asked for, or that a translation names as lost."""

_POLICY: Final[Mapping[str, Setting]] = {
    "mode": MODE,
    "policy": POLICY,
    "max_budget_usd": BUDGET,
    "max_latency_ms": LATENCY,
    "min_weight": MIN_WEIGHT,
}
_ORCHESTRATION: Final[Mapping[str, Setting]] = {
    "mode": MODE,
    "iterations": ITERATIONS,
    "primary_min_weight": MIN_WEIGHT,
    "review_min_weight": REVIEW_MIN_WEIGHT,
    "max_cost_usd": BUDGET,
    "max_latency_ms": LATENCY,
    "output_format": OUTPUT,
    "output_schema": OUTPUT_SCHEMA,
}
_OUTPUT_FORMAT: Final[Mapping[str, Setting]] = {
    "type": OUTPUT,
    "schema": OUTPUT_SCHEMA,
    "max_tokens": MAX_TOKENS,
    "strip_think": STRIP_THINK,
}
_IN_REQUEST: Final = ("messages", "tools")
_FINAL_EVENT: Final = b"event: tokenhub\ndata: "


class Envelope(WireFormat):
    """The envelope. Between `unwrap` and `wrap` it is a chat of OpenAI's."""

    operation: ClassVar[Operation] = Operation.TOKENHUB_CHAT
    scope: ClassVar[str] = "chat"
    error_type: ClassVar[bytes] = PROBLEM
    wraps: ClassVar[bool] = True
    _chat: ClassVar[OpenAIChat] = OpenAIChat()

    @property
    def bare(self) -> WireFormat:
        """OpenAI's chat."""
        return self._chat

    def unwrap(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], Directives]:
        """The chat as a body of OpenAI's, and what the envelope asks besides. Raises InvalidRequest with the path."""
        outer = Fields(body, "")
        _refuse_unknown(outer, _OUTER)
        request = outer.need_object("request")
        _refuse_unknown(request, _REQUEST)
        asked = _Asked()
        asked.take(outer.object("policy"), _POLICY)
        asked.take(outer.object("orchestration"), _ORCHESTRATION)
        asked.take(outer.object("output_format"), _OUTPUT_FORMAT, zero_is_none=("max_tokens",))
        asked.take(request, {"output_schema": OUTPUT_SCHEMA}, closed=False)
        _check_labels(request)
        directives = Directives(
            **asked.values,
            input_tokens=_read_estimate(request),
            capabilities=_read_capabilities(outer.object("capabilities")),
        )
        return _read_chat(request), directives

    def check(self, body: Mapping[str, Any]) -> None:
        """As a chat of OpenAI's, once it is unwrapped; paths are the envelope's."""
        try:
            self._chat.check(body)
        except InvalidRequest as error:
            raise _within(error) from error

    def read_call(self, body: Mapping[str, Any]) -> ChatCall:
        """The call of an unwrapped body. Raises InvalidRequest naming the JSON path in the envelope."""
        try:
            return read_chat_call(body)
        except InvalidRequest as error:
            raise _within(error) from error

    def write_answer(self, answer: ChatAnswer, *, model: str, call: ChatCall) -> bytes:
        """A `chat.completion` as JSON, to be wrapped."""
        return write_chat_answer(answer, model)

    def stream_encoder(self, *, model: str, call: ChatCall) -> StreamEncoder:
        """An encoder of `chat.completion.chunk` events."""
        return ChatStreamEncoder(model=model, call=call)

    def wrap(self, answer: bytes, figures: Figures) -> bytes:
        """The envelope of a whole answer."""
        return msgspec.json.encode({**_write_figures(figures), "response": msgspec.Raw(answer)})

    def final_event(self, figures: Figures) -> bytes:
        """`event: tokenhub` with all that an envelope has but the response, behind the stream's `[DONE]`."""
        return format_event(msgspec.json.encode(_write_figures(figures)), "tokenhub")

    def give_again(self, answer: bytes, reason: str, decision_id: str, *, stream: bool) -> bytes:
        """The kept answer with the figures of the request that gets it now."""
        head, body, tail = b"", answer, b""
        if stream:
            start = answer.rindex(_FINAL_EVENT) + len(_FINAL_EVENT)
            head, body, tail = answer[:start], answer[start:], b"\n\n"
        told = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        figures = {"cost_usd": _write_usd(0), "routing_reason": reason, "decision_id": decision_id}
        return head + msgspec.json.encode({**told, **figures}) + tail

    def error_body(self, error: TokenhubError, request_id: str) -> bytes:
        """A problem of RFC 9457, with the members that the admin API's have."""
        extra = {"param": error.param, "hint": error.hint, "details": to_plain(error.details)}
        return _write_problem(error.status, error.code, error.message, request_id, extra)

    def failure_body(self, failure: Failure, request_id: str) -> bytes:
        """A provider's failure as a problem."""
        message, code = describe_failure(failure)
        return _write_problem(failure.status, code, message, request_id, {"param": failure.param})

    def error_event(self, error: TokenhubError, request_id: str) -> bytes:
        """`event: error` with a problem."""
        return format_event(self.error_body(error, request_id), "error")


class _Asked:
    """Collects settings from an envelope's objects; two that ask different things of the same are refused."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self._paths: dict[str, str] = {}

    def take(
        self,
        fields: Fields | None,
        settings: Mapping[str, Setting],
        *,
        closed: bool = True,
        zero_is_none: tuple[str, ...] = (),
    ) -> None:
        """Reads the settings of one object. `closed`: it may have no others."""
        if fields is None:
            return
        if closed:
            _refuse_unknown(fields, settings.keys())
        for name, setting in settings.items():
            value, path = fields.find(name), fields.at(name)
            if value is None or (name in zero_is_none and value == 0 and value is not False):
                continue
            read, field = read_setting(setting, value, path), setting.field
            if self.values.setdefault(field, read) != read:
                raise refused(path, f"says otherwise than {self._paths[field]}")
            self._paths.setdefault(field, path)


def _refuse_unknown(fields: Fields, known: Any) -> None:
    for name in fields.values:
        if name not in known:
            raise refused(
                fields.at(name[:LONGEST_ID]), f"is not known here; known are {', '.join(sorted(known))}"
            )


def _check_labels(request: Fields) -> None:
    """`id` and `meta` are the caller's own: bounded, and passed to nobody."""
    if len(request.text("id")) > LONGEST_ID:
        raise refused(request.at("id"), f"must be a string of at most {LONGEST_ID} characters")
    meta = request.object("meta")
    if meta is not None and len(meta.values) > MOST_META:
        raise refused(request.at("meta"), f"must have at most {MOST_META} members")


def _read_estimate(request: Fields) -> int:
    estimate = request.whole("estimated_input_tokens", 0) or 0
    if estimate > MOST_INPUT_TOKENS:
        raise refused(request.at("estimated_input_tokens"), f"must be at most {MOST_INPUT_TOKENS}")
    return estimate


def _read_capabilities(fields: Fields | None) -> frozenset[str]:
    if fields is None:
        return frozenset()
    if len(fields.values) > MOST_CAPABILITIES:
        raise refused(fields.path, f"must have at most {MOST_CAPABILITIES} members")
    return frozenset(name for name in fields.values if fields.flag(name))


def _read_chat(request: Fields) -> dict[str, Any]:
    """The request as OpenAI's body."""
    parameters = request.object("parameters")
    chat: dict[str, Any] = {"model": request.text("model_hint") or ANY_MODEL}
    if parameters is not None:
        _refuse_unknown(parameters, _PARAMETERS)
        chat.update(parameters.values)
    for name in (*_IN_REQUEST, "stream"):
        if (value := request.find(name)) is not None:
            chat[name] = value
    return chat


def _within(error: InvalidRequest) -> InvalidRequest:
    """An error of the unwrapped chat, with the path that its member has in the envelope."""
    path = error.param or ""
    top = path.partition(".")[0].partition("[")[0]
    if top == "model":
        moved = "request.model_hint"
    elif top in (*_IN_REQUEST, "stream"):
        moved = f"request.{path}"
    elif top == "response_format":
        moved = "output_format"
    else:
        moved = f"request.parameters.{path}"
    message = moved + error.message.removeprefix(path) if error.message.startswith(path) else error.message
    return InvalidRequest(message, param=moved, hint=error.hint, details=error.details)


def _write_figures(figures: Figures) -> dict[str, Any]:
    return {
        "negotiated_model": figures.model,
        "provider": figures.provider,
        "estimated_cost_usd": _write_usd(figures.estimated_nanos),
        "cost_usd": _write_usd(figures.cost_nanos),
        "routing_reason": figures.reason,
        "usage": write_usage(figures.usage),
        "decision_id": figures.decision_id,
    }


def _write_usd(nanos: int | None) -> msgspec.Raw | None:
    """An exact decimal number; a float would round."""
    return None if nanos is None else msgspec.Raw(usd_from_nanos(nanos).encode())


def _write_problem(status: int, code: str, detail: str, request_id: str, extra: Mapping[str, Any]) -> bytes:
    body = {
        "type": f"urn:tokenhub:problem:{code}",
        "title": HTTPStatus(status).phrase if status in HTTPStatus else "Error",
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
    }
    return msgspec.json.encode({**body, **{name: value for name, value in extra.items() if value}})
