"""Reading and refusing Anthropic requests as Anthropic does. Data plane, pure."""

from collections.abc import Iterator, Mapping
from typing import Any

from .answers import Call, Json
from .failures import SimulatedFailure
from .signatures import verifies

SAMPLING_FREE_VERSION = "2026-10-21"
VERSIONS = ("2023-06-01", SAMPLING_FREE_VERSION)
_SAMPLING = ("temperature", "top_p", "top_k")
_MOST_BREAKPOINTS = 4
_LEAST_THINKING_BUDGET = 1024
_FIELDS = frozenset(
    [
        "model",
        "messages",
        "max_tokens",
        "system",
        "metadata",
        "stop_sequences",
        "stream",
        "temperature",
        "top_p",
        "top_k",
        "tools",
        "tool_choice",
        "thinking",
        "service_tier",
        "container",
        "context_management",
        "mcp_servers",
        "output_config",
        "output_format",
        "cache_control",
        "inference_geo",
        "speed",
        "diagnostics",
        "user_profile_id",
        "workspace_id",
        "billing_policy",
        "compaction",
        "fallbacks",
        "thread",
    ]
)


def refuse(message: str) -> SimulatedFailure:
    """Anthropic's 400 with this message."""
    return SimulatedFailure(400, message, "invalid_request_error")


def check(call: Call, *, counting: bool = False) -> list[Json]:
    """The messages with their contents as lists of blocks, or the vendor's 400. `counting` needs no
    `max_tokens`.
    """
    request = call.request
    if call.surface == "anthropic":
        _check_version(call)
    _check_top(call, counting)
    messages = request.get("messages")
    if messages is None:
        raise refuse("messages: Field required")
    if not isinstance(messages, list):
        raise refuse("messages: Input should be a valid list")
    if not messages:
        raise refuse("messages: at least one message is required")
    normal = [_message(call, index, message) for index, message in enumerate(messages)]
    _check_pairs(normal)
    _check_breakpoints(request, normal)
    _check_thinking(call, normal)
    return normal


def _check_version(call: Call) -> None:
    if not call.version:
        raise refuse("anthropic-version: header is required")
    if call.version not in VERSIONS:
        raise refuse(f'anthropic-version: "{call.version}" is not a valid version')
    if call.version == SAMPLING_FREE_VERSION:
        for name in _SAMPLING:
            if name in call.request:
                raise refuse(f"{name}: Extra inputs are not permitted")


def _check_top(call: Call, counting: bool) -> None:
    request = call.request
    if not isinstance(request.get("model"), str) or not request["model"]:
        raise refuse("model: Field required")
    if call.settings.strict_fields and call.surface == "anthropic":
        for name in request:
            if name not in _FIELDS:
                raise refuse(f"{name}: Extra inputs are not permitted")
    limit = request.get("max_tokens")
    if limit is None:
        if not counting:
            raise refuse("max_tokens: Field required")
    elif isinstance(limit, bool) or not isinstance(limit, int):
        raise refuse("max_tokens: Input should be a valid integer")
    elif limit < 1:
        raise refuse("max_tokens: must be greater than or equal to 1")
    for name, high in (("temperature", 1), ("top_p", 1)):
        value = request.get(name)
        if value is not None and not (isinstance(value, int | float) and 0 <= value <= high):
            raise refuse(f"{name}: range: 0..{high}")


def _message(call: Call, index: int, message: object) -> Json:
    if not isinstance(message, Mapping):
        raise refuse(f"messages.{index}: Input should be a valid dictionary or object to extract fields from")
    role = message.get("role")
    if role is None:
        raise refuse(f"messages.{index}.role: Field required")
    # System messages in mid-conversation are a beta of 2023-06-01 and plain in the next version; Claude Code sends them.
    if role not in ("user", "assistant", "system"):
        raise refuse(f"messages.{index}.role: Input should be 'user' or 'assistant'")
    if "content" not in message:
        raise refuse(f"messages.{index}.content: Field required")
    blocks = _blocks(index, message["content"])
    for number, block in enumerate(blocks):
        _check_block(call, f"messages.{index}.content.{number}", str(role), block)
    return {"role": role, "content": blocks}


def _blocks(index: int, content: object) -> list[Json]:
    if isinstance(content, str):
        if not content:
            raise refuse(f"messages.{index}: all messages must have non-empty content")
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise refuse(f"messages.{index}.content: Input should be a valid list")
    return content


def _check_block(call: Call, path: str, role: str, block: object) -> None:
    if not isinstance(block, Mapping) or "type" not in block:
        raise refuse(f"{path}.type: Field required")
    kind = block["type"]
    if kind == "text":
        if not isinstance(block.get("text"), str):
            raise refuse(f"{path}.text.text: Field required")
        if not block["text"]:
            raise refuse("messages: text content blocks must be non-empty")
    for needed in {
        "image": ("source",),
        "tool_use": ("id", "name", "input"),
        "tool_result": ("tool_use_id",),
    }.get(kind, ()):
        if needed not in block:
            raise refuse(f"{path}.{kind}.{needed}: Field required")
    if kind == "thinking" and not verifies(str(block.get("thinking", "")), block.get("signature"), call.key):
        raise refuse(f"{path}: Invalid `signature` in `thinking` block")
    if call.version == SAMPLING_FREE_VERSION and call.surface == "anthropic":
        if role == "assistant" and kind == "document":
            raise refuse(f"{path}: `document` blocks are not permitted in assistant messages")
        if role == "user" and kind == "text" and block.get("citations"):
            raise refuse(f"{path}.text.citations: Extra inputs are not permitted")


def _check_pairs(messages: list[Json]) -> None:
    open_ids: list[str] = []
    for index, message in enumerate(messages):
        results = [block["tool_use_id"] for block in message["content"] if block["type"] == "tool_result"]
        for identifier in results:
            if identifier not in open_ids:
                raise refuse(
                    f"messages.{index}.content.0: unexpected `tool_use_id` found in `tool_result` blocks: "
                    f"{identifier}. "
                    "Each `tool_result` block must have a corresponding `tool_use` block in the previous "
                    "message."
                )
        unanswered = [identifier for identifier in open_ids if identifier not in results]
        if unanswered:
            raise refuse(
                f"messages.{index - 1}: `tool_use` ids were found without `tool_result` blocks immediately "
                f"after: "
                f"{', '.join(unanswered)}. Each `tool_use` block must have a corresponding `tool_result` "
                f"block in the "
                "next message."
            )
        open_ids = [block["id"] for block in message["content"] if block["type"] == "tool_use"]


def prompt_blocks(request: Json, messages: list[Json]) -> Iterator[tuple[str, Json]]:
    """Every block of the prompt in the order of the cache, each with where it stands: tools, system,
    messages.
    """
    for tool in request.get("tools") or ():
        yield "tools", tool
    system = request.get("system")
    if isinstance(system, str):
        yield "system", {"type": "text", "text": system}
    else:
        for block in system or ():
            yield "system", block
    for message in messages:
        for block in message["content"]:
            yield str(message["role"]), block


def _check_breakpoints(request: Json, messages: list[Json]) -> None:
    found = 0
    long_allowed = True
    for _, block in prompt_blocks(request, messages):
        control = block.get("cache_control")
        if not control:
            continue
        found += 1
        lifetime = control.get("ttl", "5m") if isinstance(control, Mapping) else None
        if lifetime not in ("5m", "1h"):
            raise refuse("cache_control.ephemeral.ttl: Input should be '5m' or '1h'")
        if lifetime == "1h" and not long_allowed:
            raise refuse(
                "a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block. Note "
                "that blocks are "
                "processed in the following order: `tools`, `system`, `messages`."
            )
        long_allowed = lifetime == "1h"
    if found > _MOST_BREAKPOINTS:
        raise refuse(f"A maximum of 4 blocks with cache_control may be provided. Found {found}.")


def thinks(request: Json) -> bool:
    """Whether the request switches thinking on."""
    thinking = request.get("thinking")
    return isinstance(thinking, Mapping) and thinking.get("type") in ("enabled", "adaptive")


def _check_open_turn(messages: list[Json]) -> None:
    """With thinking on, a turn that called tools must begin with the thoughts that led to the calls."""
    results = any(block["type"] == "tool_result" for block in messages[-1]["content"])
    if not results or len(messages) < 2:
        return
    kind = messages[-2]["content"][0]["type"]
    if messages[-2]["role"] == "assistant" and kind not in ("thinking", "redacted_thinking"):
        raise refuse(
            f"messages.{len(messages) - 2}.content.0.type: Expected `thinking` or `redacted_thinking`, but found `{kind}`. "
            "When `thinking` is enabled, a final `assistant` message must start with a thinking block (preceeding the lastmost "
            "set of `tool_use` and `tool_result` blocks)."
        )


def _check_thinking(call: Call, messages: list[Json]) -> None:
    request = call.request
    thinking: Any = request.get("thinking")
    if thinking is None:
        return
    kind = thinking.get("type") if isinstance(thinking, Mapping) else None
    if kind not in ("enabled", "disabled", "adaptive"):
        raise refuse("thinking.type: Input should be 'adaptive', 'enabled' or 'disabled'")
    if kind == "disabled":
        return
    if kind == "enabled":
        budget = thinking.get("budget_tokens")
        if budget is None:
            raise refuse("thinking.enabled.budget_tokens: Field required")
        if not isinstance(budget, int) or budget < _LEAST_THINKING_BUDGET:
            raise refuse("thinking.enabled.budget_tokens: Input should be greater than or equal to 1024")
        if request.get("max_tokens", budget + 1) <= budget:
            raise refuse("`max_tokens` must be greater than `thinking.budget_tokens`.")
        _check_open_turn(messages)
    if request.get("temperature", 1) != 1:
        raise refuse("`temperature` may only be set to 1 when thinking is enabled.")
    if (request.get("tool_choice") or {}).get("type") in ("any", "tool"):
        raise refuse("Thinking may not be enabled when tool_choice forces tool use.")
