"""OpenAI's embeddings as a consumer format: POST /v1/embeddings. Native only, never translated. Data plane."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from gateway.wire._openai_errors import write_error, write_error_event, write_failure
from gateway.wire._openai_fields import check_common, refused
from gateway.wire.base import WireFormat
from providers.adapters.base import Failure, Operation
from tokenhub.core.errors import TokenhubError


class OpenAIEmbeddings(WireFormat):
    """Text in, vectors out: checks and errors; bodies pass through."""

    operation: ClassVar[Operation] = Operation.OPENAI_EMBEDDINGS
    scope: ClassVar[str] = "embeddings"

    def check(self, body: Mapping[str, Any]) -> None:
        """`model` and `input` (a text, texts, tokens or arrays of tokens)."""
        fields = check_common(body)
        given = fields.find("input")
        if not isinstance(given, str | list) or not given:
            raise refused("input", "must be a string or an array that is not empty")
        fields.whole("dimensions", 1)

    def error_body(self, error: TokenhubError, request_id: str) -> bytes:
        """OpenAI's error object."""
        return write_error(error, request_id)

    def failure_body(self, failure: Failure, request_id: str) -> bytes:
        """A provider's failure as OpenAI's error object."""
        return write_failure(failure, request_id)

    def error_event(self, error: TokenhubError, request_id: str) -> bytes:
        """OpenAI's error object as an event of a stream."""
        return write_error_event(error, request_id)
