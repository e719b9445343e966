"""`POST /v1/messages/count_tokens`: Anthropic's token counting. Data plane."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from gateway.wire._anthropic_failures import write_error, write_error_event, write_failure
from gateway.wire._anthropic_write import encode_json
from gateway.wire.anthropic_messages import check_outline
from gateway.wire.base import WireFormat
from providers.adapters.base import Failure, Operation
from tokenhub.core.errors import TokenhubError


class AnthropicCountTokens(WireFormat):
    """Anthropic's token counting. It does not translate: a target without it is answered with
    an estimate (`gateway.tokens`)."""

    operation: ClassVar[Operation] = Operation.ANTHROPIC_COUNT_TOKENS
    scope: ClassVar[str] = "count_tokens"

    def check(self, body: Mapping[str, Any]) -> None:
        """`model` and `messages`. Raises InvalidRequest with the path."""
        check_outline(body)

    def write_count(self, tokens: int) -> bytes:
        """The answer for an estimated count."""
        return encode_json({"input_tokens": tokens})

    def error_body(self, error: TokenhubError, request_id: str) -> bytes:
        """An error of ours."""
        return write_error(error, request_id)

    def failure_body(self, failure: Failure, request_id: str) -> bytes:
        """A provider's failure."""
        return write_failure(failure, request_id)

    def error_event(self, error: TokenhubError, request_id: str) -> bytes:
        """The `error` event; counts don't stream, so only a relay that is wrong asks for it."""
        return write_error_event(error, request_id)
