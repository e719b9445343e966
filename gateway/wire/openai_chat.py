"""OpenAI's chat completions as a consumer format: POST /v1/chat/completions. Data plane."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from gateway.wire._openai_errors import write_error, write_error_event, write_failure
from gateway.wire._openai_fields import Fields, check_common, refused
from gateway.wire._openai_read import read_chat_call
from gateway.wire._openai_write import ChatStreamEncoder, write_chat_answer
from gateway.wire.base import StreamEncoder, WireFormat
from providers.adapters.base import Failure, Operation
from tokenhub.core.chat import ChatAnswer, ChatCall
from tokenhub.core.errors import TokenhubError

_LIMITS = ("max_tokens", "max_completion_tokens", "n")


class OpenAIChat(WireFormat):
    """Requests, answers, streams and errors as OpenAI's; the extensions are told in `_openai_parts`."""

    operation: ClassVar[Operation] = Operation.OPENAI_CHAT
    scope: ClassVar[str] = "chat"

    def check(self, body: Mapping[str, Any]) -> None:
        """`model`, `messages` and what bounds the cost. Everything else of a native body is the provider's to judge."""
        if _is_plain(body):
            return
        fields = check_common(body)
        if not fields.items("messages"):
            raise refused("messages", "must be an array with at least one message")
        for number, message in enumerate(fields.items("messages")):
            # An object for each of a hundred thousand messages would hold the loop.
            if type(message) is not dict or type(role := message.get("role")) is not str or not role:
                Fields(message, f"messages[{number}]").need_text("role")
        for name in _LIMITS:
            fields.whole(name, 1)

    def read_call(self, body: Mapping[str, Any]) -> ChatCall:
        """The call of a body. Raises InvalidRequest naming the JSON path."""
        return read_chat_call(body)

    def write_answer(self, answer: ChatAnswer, *, model: str, call: ChatCall) -> bytes:
        """A `chat.completion` as JSON."""
        return write_chat_answer(answer, model)

    def stream_encoder(self, *, model: str, call: ChatCall) -> StreamEncoder:
        """An encoder of `chat.completion.chunk` events."""
        return ChatStreamEncoder(model=model, call=call)

    def error_body(self, error: TokenhubError, request_id: str) -> bytes:
        """OpenAI's error object."""
        return write_error(error, request_id)

    def failure_body(self, failure: Failure, request_id: str) -> bytes:
        """A provider's failure as OpenAI's error object."""
        return write_failure(failure, request_id)

    def error_event(self, error: TokenhubError, request_id: str) -> bytes:
        """OpenAI's error object as an event of a stream."""
        return write_error_event(error, request_id)


def _is_plain(body: Mapping[str, Any]) -> bool:
    """Whether `check` has nothing to refuse, for the types that nearly every request has. False says nothing.

    Each request pays for this; naming the path of what is wrong costs ten times as much.
    """
    model, messages = body.get("model"), body.get("messages")
    if type(model) is not str or not model or type(messages) is not list or not messages:
        return False
    for message in messages:
        if type(message) is not dict:
            return False
        role = message.get("role")
        if type(role) is not str or not role:
            return False
    for name in _LIMITS:
        limit = body.get(name, 1)
        if type(limit) is not int or limit < 1:
            return False
    return type(body.get("stream", False)) is bool and "stream_options" not in body
