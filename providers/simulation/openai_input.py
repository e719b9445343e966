"""Reading and refusing OpenAI requests as OpenAI does. Data plane, pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from .answers import Call, Json
from .failures import SimulatedFailure, context_failure
from .tokens import MESSAGE_OVERHEAD_TOKENS, REPLY_OVERHEAD_TOKENS, count_content, count_json, count_text

_ROLES = ("system", "assistant", "user", "function", "tool", "developer")
_RANGES = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
}
_SHARED_FIELDS = frozenset(
    [
        "model",
        "stream",
        "stream_options",
        "n",
        "stop",
        "max_tokens",
        "temperature",
        "top_p",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "seed",
        "user",
    ]
)
CHAT_FIELDS = _SHARED_FIELDS | frozenset(
    [
        "messages",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "max_completion_tokens",
        "top_logprobs",
        "metadata",
        "store",
        "modalities",
        "audio",
        "prediction",
        "reasoning_effort",
        "service_tier",
        "verbosity",
        "web_search_options",
        "functions",
        "function_call",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "moderation",
        "prompt_cache_options",
    ]
)
COMPLETION_FIELDS = _SHARED_FIELDS | frozenset(("prompt", "best_of", "echo", "suffix"))
EMBEDDING_FIELDS = frozenset(("model", "input", "encoding_format", "dimensions", "user"))


def missing(path: str) -> SimulatedFailure:
    """OpenAI's 400 for a required field that is absent."""
    return SimulatedFailure(
        400, f"Missing required parameter: '{path}'.", param=path, code="missing_required_parameter"
    )


def wrong_type(path: str, expected: str, value: object) -> SimulatedFailure:
    """OpenAI's 400 for a value of the wrong type; `expected` with its article."""
    message = f"Invalid type for '{path}': expected {expected}, but got {_described(value)} instead."
    return SimulatedFailure(400, message, param=path, code="invalid_type")


def _described(value: object) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "an integer", float: "a decimal", str: "a string", list: "an array"}
    return names.get(type(value), "an object")


def check_common(call: Call, known: frozenset[str]) -> None:
    """Raises the vendor's 400 for what all generating endpoints check: model, numbers, stop, stream options."""
    request = call.request
    model = request.get("model")
    if model is None or model == "":
        raise SimulatedFailure(400, "you must provide a model parameter")
    if not isinstance(model, str):
        raise wrong_type("model", "a string", model)
    if call.settings.strict_fields and call.surface == "openai":
        for name in request:
            if name not in known:
                raise SimulatedFailure(
                    400, f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter"
                )
    _check_numbers(request)
    stops = request.get("stop")
    if stops is not None and not isinstance(stops, str | list):
        raise wrong_type("stop", "one of a string or an array of strings", stops)
    options = request.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise wrong_type("stream_options", "an object", options)
    if options is not None and not request.get("stream"):
        raise SimulatedFailure(
            400,
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
            param="stream_options",
        )


def _check_numbers(request: Json) -> None:
    for name, (low, high) in _RANGES.items():
        value = request.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise wrong_type(name, "a decimal", value)
        if not low <= value <= high:
            raise _out_of_range("decimal", name, value, low, high)
    limits: tuple[tuple[str, int | None], ...] = (
        ("n", 128),
        ("max_tokens", None),
        ("max_completion_tokens", None),
    )
    for name, most in limits:
        value = request.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong_type(name, "an integer", value)
        if value < 1 or (most is not None and value > most):
            raise _out_of_range("integer", name, value, 1, most)


def _out_of_range(kind: str, name: str, value: float, low: int, high: int | None) -> SimulatedFailure:
    below = value < low
    side, sign, bound = ("below", ">=", low) if below else ("above", "<=", high)
    limit = "min" if below else "max"
    message = (
        f"Invalid '{name}': {kind} {side} {limit}imum value. Expected a value {sign} {bound}, but got "
        f"{value} instead."
    )
    return SimulatedFailure(400, message, param=name, code=f"{kind}_{side}_{limit}_value")


def check_messages(messages: object) -> list[Json]:
    """The messages, or the vendor's 400: their list, roles, content, and the pairing of tool calls and
    results.
    """
    if messages is None:
        raise missing("messages")
    if not isinstance(messages, list):
        raise wrong_type("messages", "an array of objects", messages)
    if not messages:
        message = (
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty "
            "array instead."
        )
        raise SimulatedFailure(400, message, param="messages", code="empty_array")
    for index, message in enumerate(messages):
        _check_message(index, message)
    _check_pairs(messages)
    return messages


def _check_message(index: int, message: object) -> None:
    path = f"messages[{index}]"
    if not isinstance(message, Mapping):
        raise wrong_type(path, "an object", message)
    role = message.get("role")
    if role is None:
        raise missing(f"{path}.role")
    if role not in _ROLES:
        known = ", ".join(f"'{name}'" for name in _ROLES[:-1])
        raise SimulatedFailure(
            400,
            f"Invalid value: '{role}'. Supported values are: {known}, and '{_ROLES[-1]}'.",
            param=f"{path}.role",
            code="invalid_value",
        )
    content = message.get("content")
    if content is None and role != "assistant":
        if "content" not in message:
            raise missing(f"{path}.content")
        raise SimulatedFailure(
            400,
            "Invalid value for 'content': expected a string, got null.",
            param=f"messages.[{index}].content",
        )
    if isinstance(content, list):
        _check_parts(path, content)
    elif content is not None and not isinstance(content, str):
        raise wrong_type(f"{path}.content", "one of a string or array of objects", content)


def _check_parts(path: str, parts: list[Any]) -> None:
    for number, part in enumerate(parts):
        if not isinstance(part, Mapping) or "type" not in part:
            raise missing(f"{path}.content[{number}].type")
        kind = part["type"]
        body = {"image_url": "image_url", "input_audio": "input_audio", "file": "file"}.get(kind, "text")
        if kind in ("text", "image_url", "input_audio", "file") and part.get(body) is None:
            raise missing(f"{path}.content[{number}].{body}")


def _check_pairs(messages: list[Json]) -> None:
    waiting: list[str] = []
    for index, message in enumerate(messages):
        if message["role"] == "tool":
            if message.get("tool_call_id") not in waiting:
                raise SimulatedFailure(
                    400,
                    "Invalid parameter: messages with role 'tool' must be a response to a preceeding "
                    "message with "
                    "'tool_calls'.",
                    param=f"messages.[{index}].role",
                )
            waiting.remove(message["tool_call_id"])
            continue
        if waiting:
            break
        waiting = [str(call.get("id")) for call in message.get("tool_calls") or ()]
    if waiting:
        raise SimulatedFailure(
            400,
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
            "'tool_call_id'. The following tool_call_ids did not have response messages: "
            f"{', '.join(waiting)}",
            param="messages",
        )


def prompt_tokens(request: Json, messages: Iterable[Json]) -> int:
    """Input tokens of a chat request: 3, and for each message 4 and its content, name and calls; tools;
    schema.
    """
    total = REPLY_OVERHEAD_TOKENS
    for message in messages:
        total += MESSAGE_OVERHEAD_TOKENS + count_content(message.get("content"))
        if message.get("name"):
            total += count_text(str(message["name"]))
        if message.get("tool_calls"):
            total += count_json([call.get("function") for call in message["tool_calls"]])
    if request.get("tools"):
        total += count_json(request["tools"])
    wanted = request.get("response_format")
    if isinstance(wanted, Mapping) and wanted.get("type") == "json_schema":
        total += count_json(wanted.get("json_schema"))
    return total


def check_window(call: Call, tokens: int) -> None:
    """Raises the vendor's 400 when the prompt is longer than the context window."""
    window = call.settings.context_window
    if window is not None and tokens > window:
        raise context_failure(call.surface, tokens, window)


def stops(request: Json) -> tuple[str, ...]:
    """The stop sequences as a tuple."""
    given = request.get("stop")
    if given is None:
        return ()
    return (given,) if isinstance(given, str) else tuple(map(str, given))
