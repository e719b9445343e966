"""`POST /v1/messages`: Anthropic's Messages format towards callers. Data plane; pure, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from gateway.wire._anthropic_failures import write_error, write_error_event, write_failure
from gateway.wire._anthropic_members import find_integer, refuse, take_flag, take_text
from gateway.wire._anthropic_read import read_messages_call
from gateway.wire._anthropic_write import MessagesEncoder, write_message
from gateway.wire.base import StreamEncoder, WireFormat
from providers.adapters.base import Failure, Operation
from tokenhub.core.chat import ChatAnswer, ChatCall
from tokenhub.core.errors import TokenhubError


def check_outline(body: Mapping[str, Any]) -> None:
    """`model` and `messages`, which every Messages route wants. Raises InvalidRequest with the path."""
    if not take_text(body, "model", ""):
        raise refuse("model", "a model's name is required")
    messages = body.get("messages")
    if not isinstance(messages, list | tuple) or not messages:
        raise refuse("messages", "an array of at least one message is required")
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise refuse(f"messages[{number}]", "an object is required")


class AnthropicMessages(WireFormat):
    """Anthropic's Messages format."""

    operation: ClassVar[Operation] = Operation.ANTHROPIC_MESSAGES
    scope: ClassVar[str] = "chat"

    def check(self, body: Mapping[str, Any]) -> None:
        """`model`, `messages`, `max_tokens` and `stream`; the rest is the provider's, or `read_call`'s, to
        judge."""
        check_outline(body)
        if find_integer(body, "max_tokens", "", 0) is None:
            raise refuse("max_tokens", "an integer is required")
        take_flag(body, "stream", "")

    def read_call(self, body: Mapping[str, Any]) -> ChatCall:
        """The call of a parsed body. Raises InvalidRequest naming the JSON path."""
        return read_messages_call(body)

    def write_answer(self, answer: ChatAnswer, *, model: str, call: ChatCall) -> bytes:
        """A whole message; what it can't hold is named in `answer.losses`."""
        return write_message(answer, model)

    def stream_encoder(self, *, model: str, call: ChatCall) -> StreamEncoder:
        """A fresh encoder; what a stream can't hold is named in `call.losses`."""
        return MessagesEncoder(model, call.losses)

    def error_body(self, error: TokenhubError, request_id: str) -> bytes:
        """An error of ours."""
        return write_error(error, request_id)

    def failure_body(self, failure: Failure, request_id: str) -> bytes:
        """A provider's failure."""
        return write_failure(failure, request_id)

    def error_event(self, error: TokenhubError, request_id: str) -> bytes:
        """The `error` event of a stream."""
        return write_error_event(error, request_id)
