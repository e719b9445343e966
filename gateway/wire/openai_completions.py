"""OpenAI's legacy completions as a consumer format: POST /v1/completions. Native only, never translated. Data plane."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from gateway.wire._openai_errors import write_error, write_error_event, write_failure
from gateway.wire._openai_fields import check_common, refused
from gateway.wire.base import WireFormat
from providers.adapters.base import Failure, Operation
from tokenhub.core.errors import TokenhubError


class OpenAICompletions(WireFormat):
    """Prompt in, text out: checks and errors; bodies pass through."""

    operation: ClassVar[Operation] = Operation.OPENAI_COMPLETIONS
    scope: ClassVar[str] = "completions"

    def check(self, body: Mapping[str, Any]) -> None:
        """`model`, `prompt` (a text, texts, tokens or arrays of tokens) and what bounds the cost."""
        fields = check_common(body)
        prompt = fields.find("prompt")
        # vLLM takes embeddings in the prompt's place.
        if fields.find("prompt_embeds") is None and (not isinstance(prompt, str | list) or prompt == []):
            raise refused("prompt", "must be a string or an array that is not empty")
        fields.whole("max_tokens", 0)
        for name in ("n", "best_of"):
            fields.whole(name, 1)

    def error_body(self, error: TokenhubError, request_id: str) -> bytes:
        """OpenAI's error object."""
        return write_error(error, request_id)

    def failure_body(self, failure: Failure, request_id: str) -> bytes:
        """A provider's failure as OpenAI's error object."""
        return write_failure(failure, request_id)

    def error_event(self, error: TokenhubError, request_id: str) -> bytes:
        """OpenAI's error object as an event of a stream."""
        return write_error_event(error, request_id)
