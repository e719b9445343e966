"""Error answers in the vendors' own bodies. Data plane, pure.

Bodies and headers follow recorded answers of OpenAI, Anthropic and vLLM 0.32 (vLLM: integer code, its own
types, and on `/v1/messages` an Anthropic envelope that keeps vLLM's types).
"""

from dataclasses import dataclass
from typing import Any, Literal

import msgspec

Surface = Literal["openai", "anthropic", "vllm", "vllm-messages"]
Headers = tuple[tuple[str, str], ...]

_VLLM_TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    429: "RateLimitError",
    503: "ServiceUnavailableError",
}
_OPENAI_HTTP: dict[int, tuple[str, str, str | None]] = {
    403: (
        "Country, region, or territory not supported",
        "request_forbidden",
        "unsupported_country_region_territory",
    ),
    404: (
        "The model does not exist or you do not have access to it.",
        "invalid_request_error",
        "model_not_found",
    ),
    429: (
        "Rate limit reached for requests. Limit: 3 / min. Please try again in 20s.",
        "requests",
        "rate_limit_exceeded",
    ),
    500: (
        "The server had an error while processing your request. Sorry about that!",
        "server_error",
        None,
    ),
    503: (
        "The engine is currently overloaded, please try again later.",
        "server_error",
        "service_unavailable",
    ),
    529: ("The engine is currently overloaded, please try again later.", "server_error", "overloaded"),
}
_ANTHROPIC_HTTP: dict[int, tuple[str, str]] = {
    401: ("authentication_error", "invalid x-api-key"),
    403: ("permission_error", "Your API key does not have permission to use the specified resource."),
    404: ("not_found_error", "model: not found"),
    429: (
        "rate_limit_error",
        "This request would exceed your account's rate limit. Please try again later.",
    ),
    500: ("api_error", "Internal server error"),
    503: ("api_error", "Service temporarily unavailable"),
    529: ("overloaded_error", "Overloaded"),
}


@dataclass(eq=False)
class SimulatedFailure(Exception):
    """An error answer: status, the vendor's error type and message, OpenAI's `param` and `code`, more
    headers.
    """

    status: int
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    headers: Headers = ()

    def body(self, surface: Surface, request_id: str) -> bytes:
        """The JSON body in the surface's shape."""
        return msgspec.json.encode(self.document(surface, request_id))

    def document(self, surface: Surface, request_id: str) -> dict[str, Any]:
        """The body as a value; the surfaces differ in envelope, types and the type of `code`."""
        if surface == "openai":
            error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
            return {"error": error}
        if surface == "anthropic":
            return {
                "type": "error",
                "error": {"type": self.type, "message": self.message},
                "request_id": request_id,
            }
        kind = _VLLM_TYPES.get(self.status, "InternalServerError")
        if surface == "vllm-messages":
            return {"type": "error", "error": {"type": kind, "message": self.message}}
        if self.status == 401:
            # vLLM's key check answers before its error handlers, with a bare string.
            return {"error": "Unauthorized"}
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.status}}


def is_anthropic(surface: Surface) -> bool:
    """Whether the surface speaks Anthropic's event format."""
    return surface in ("anthropic", "vllm-messages")


def status_failure(
    surface: Surface, status: int, retry_after: int | None = None, key: str = ""
) -> SimulatedFailure:
    """The vendor's answer of this status. `retry_after` (seconds) becomes a header; `key` is quoted by
    OpenAI's 401.
    """
    headers: Headers = () if retry_after is None else (("retry-after", str(retry_after)),)
    if surface == "anthropic":
        kind, message = _ANTHROPIC_HTTP.get(status, _ANTHROPIC_HTTP[500])
        if status in (401, 403, 404):
            headers += (("x-should-retry", "false"),)
        return SimulatedFailure(status, message, kind, headers=headers)
    if status == 401:
        message = (
            f"Incorrect API key provided: {_masked(key)}. "
            "You can find your API key at https://platform.openai.com/account/api-keys."
        )
        return SimulatedFailure(401, message, code="invalid_api_key")
    message, kind, code = _OPENAI_HTTP.get(status, _OPENAI_HTTP[500])
    return SimulatedFailure(status, message, kind, code=code, headers=headers)


def quota_failure() -> SimulatedFailure:
    """OpenAI's 429 that no retry can help: only type and code tell it from a rate limit."""
    message = (
        "You exceeded your current quota, please check your plan and billing details. For more information "
        "on this "
        "error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors."
    )
    return SimulatedFailure(429, message, "insufficient_quota", code="insufficient_quota")


def context_failure(surface: Surface, tokens: int, window: int) -> SimulatedFailure:
    """The vendor's 400 for a prompt of `tokens` tokens over a context window of `window`."""
    if surface == "anthropic":
        return SimulatedFailure(
            400,
            f"prompt is too long: {tokens} tokens > {window} maximum",
            headers=(("x-should-retry", "false"),),
        )
    if surface in ("vllm", "vllm-messages"):
        message = (
            f"This model's maximum context length is {window} tokens. However, your prompt contains at "
            f"least {tokens} "
            "input tokens, which exceeds this limit even without any output tokens. Please reduce the "
            "length of the "
            f"input prompt. (parameter=input_tokens, value={tokens})"
        )
        return SimulatedFailure(400, message, param="input_tokens")
    message = (
        f"This model's maximum context length is {window} tokens. However, your messages resulted in "
        f"{tokens} tokens. "
        "Please reduce the length of the messages."
    )
    return SimulatedFailure(400, message, param="messages", code="context_length_exceeded")


def error_event(surface: Surface, request_id: str) -> bytes:
    """The event with which the vendor breaks a stream off after its 200."""
    if surface == "anthropic":
        failure = status_failure(surface, 529)
        return b"event: error\ndata: " + failure.body(surface, request_id) + b"\n\n"
    failure = status_failure(surface, 500)
    if surface == "vllm-messages":
        return b"event: error\ndata: " + failure.body(surface, request_id) + b"\n\n"
    # vLLM ends its streams with [DONE] even after an error; OpenAI does not.
    end = b"data: [DONE]\n\n" if surface == "vllm" else b""
    return b"data: " + failure.body(surface, request_id) + b"\n\n" + end


def _masked(key: str) -> str:
    return f"{key[:3]}****{key[-4:]}" if len(key) > 11 else "****"
