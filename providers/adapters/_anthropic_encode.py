"""Writes a ChatCall as a body of Anthropic's Messages API. Data plane; pure, no I/O.

What the format has no place for is dropped and named (`seed`, penalties); what it bounds is clamped and named
(temperature over 1, thinking budgets). Only what would change the answer's meaning is refused: `n` above 1,
audio, files of other types.

Thinking: a budget style (`thinking.budget_tokens`, up to Claude 4.5) and an adaptive one
(`output_config.effort`, since Claude 4.6). The target's profile says which; `auto` reads it from the model's
name. An effort alone switches thinking on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from providers.adapters._anthropic_blocks import Block, encode_cache, encode_conversation
from providers.adapters._json_pieces import encode_request
from tokenhub.core.chat import ChatCall, Losses, OutputFormat, Reasoning, Tool
from tokenhub.core.errors import InvalidRequest

MIN_THINKING_TOKENS: Final = 1024
"""The smallest thinking budget that the API takes; it must also be under `max_tokens`."""

EFFORT_BUDGETS: Final[Mapping[str, int]] = {
    "minimal": MIN_THINKING_TOKENS,
    "low": 2_048,
    "medium": 8_192,
    "high": 16_384,
    "xhigh": 32_768,
    "max": 65_536,
}
"""Thinking tokens that stand for an effort word where a model knows budgets only, and the other way round."""

MAX_USER_CHARACTERS: Final = 256
_DEFAULT_SCHEMA: Final[Mapping[str, Any]] = {"type": "object", "properties": {}}
_TIERS: Final = {"auto": "auto", "standard_only": "standard_only", "default": "standard_only"}
_VERSION: Final = re.compile(r"claude-(?:[a-z]+-)?(\d)(?:[-.](\d))?(?!\d)")
_JSON_ONLY: Final = "Answer with one JSON object only: no other text before or behind it, and no code fence."


@dataclass(frozen=True, slots=True)
class EncodingSettings:
    """What of the target matters: the bound to send where the caller set none, how it thinks, whether it
    takes schemas."""

    model: str
    default_max_tokens: int
    max_output_tokens: int = 0
    thinking: str = "auto"
    structured_outputs: bool = True

    @property
    def is_claude(self) -> bool:
        """Whether Anthropic's own rules hold; vLLM and others serve any model on the same route."""
        return "claude" in self.model

    @property
    def adaptive(self) -> bool:
        """Whether the model takes adaptive thinking instead of budgets."""
        if self.thinking != "auto":
            return self.thinking == "adaptive"
        match = _VERSION.search(self.model)
        return match is not None and (int(match[1]), int(match[2] or 0)) >= (4, 6)


def encode_call(call: ChatCall, settings: EncodingSettings) -> tuple[bytes, Losses]:
    """The body and what was lost. Raises InvalidRequest for what the format can't hold at all."""
    losses = Losses()
    if call.n != 1:
        raise InvalidRequest("this model's provider gives one answer a request", param="n")
    system, messages = encode_conversation(call.messages, losses)
    if not messages:
        raise InvalidRequest("the request has no message with content", param="messages")
    body: Block = {"model": settings.model, "max_tokens": 0, "messages": messages}
    tools, choice = _encode_tools(call, messages, settings, losses)
    thinking, effort = _encode_reasoning(call, messages, choice, settings, losses)
    body["max_tokens"] = _encode_max_tokens(call, thinking, settings, losses)
    thinking = _fit_thinking(thinking, body["max_tokens"], losses)
    output = _encode_output(call.output_format, system, settings, losses)
    if effort:
        output["effort"] = effort
    for name, value in (
        ("system", system),
        ("tools", tools),
        ("tool_choice", choice),
        ("thinking", thinking),
        ("output_config", output),
    ):
        if value:
            body[name] = value
    body.update(_encode_sampling(call, thinking, settings, losses))
    body.update(_encode_rest(call, losses))
    try:
        return encode_request(body), losses
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            "a text holds half a surrogate pair, which is no Unicode text", param="messages"
        ) from error


def _encode_max_tokens(call: ChatCall, thinking: Block, settings: EncodingSettings, losses: Losses) -> int:
    """The bound, which the API requires. A default leaves room for an answer behind the thinking."""
    if call.max_tokens is not None:
        if settings.max_output_tokens and call.max_tokens > settings.max_output_tokens:
            losses.changed("max_tokens")
            return settings.max_output_tokens
        return call.max_tokens
    losses.changed("max_tokens")
    if settings.max_output_tokens:
        return settings.max_output_tokens
    budget: int = thinking.get("budget_tokens", 0)
    return settings.default_max_tokens + budget


def _encode_tools(
    call: ChatCall, messages: list[Block], settings: EncodingSettings, losses: Losses
) -> tuple[list[Block], Block]:
    tools = [_encode_tool(tool, settings, losses) for tool in call.tools]
    if not tools:
        if call.tool_choice is not None:
            losses.dropped("tool_choice")
        if call.parallel_tools is not None:
            losses.dropped("parallel_tool_calls")
        # Tool calls in the history need their tools declared; they are, and shut.
        names = _used_names(messages)
        if not names:
            return [], {}
        losses.changed("tools")
        return [{"name": name, "input_schema": _DEFAULT_SCHEMA} for name in names], {"type": "none"}
    return tools, _encode_choice(call)


def _encode_tool(tool: Tool, settings: EncodingSettings, losses: Losses) -> Block:
    block: Block = {"name": tool.name}
    if tool.description:
        block["description"] = tool.description
    schema = tool.schema
    if schema is None:
        schema = _DEFAULT_SCHEMA
    elif "type" not in schema:
        schema = {"type": "object", **schema}
        losses.changed("tools.parameters")
    block["input_schema"] = schema
    if tool.strict is not None:
        if settings.structured_outputs:
            block["strict"] = tool.strict
        elif tool.strict:
            losses.dropped("tools.strict")
    return block | encode_cache(tool.cache)


def _encode_choice(call: ChatCall) -> Block:
    mode = call.tool_choice.mode if call.tool_choice is not None else "auto"
    choice: Block = {"type": {"required": "any", "named": "tool"}.get(mode, mode)}
    if call.tool_choice is not None and mode == "named":
        choice["name"] = call.tool_choice.name
    if call.parallel_tools is False and mode != "none":
        choice["disable_parallel_tool_use"] = True
    return choice if call.tool_choice is not None or len(choice) > 1 else {}


def _used_names(messages: list[Block]) -> list[str]:
    names: dict[str, None] = {}
    results = False
    for message in messages:
        for block in message["content"]:
            if block["type"] == "tool_use":
                names[block["name"]] = None
            results = results or block["type"] == "tool_result"
    return list(names) or (["unknown"] if results else [])


def _encode_reasoning(
    call: ChatCall, messages: list[Block], choice: Block, settings: EncodingSettings, losses: Losses
) -> tuple[Block, str]:
    """The `thinking` object and the `output_config.effort`; both empty where nothing was asked."""
    reasoning = call.reasoning
    if reasoning is None:
        return {}, ""
    if reasoning.budget_tokens == 0 or reasoning.effort == "none":
        return {"type": "disabled"}, ""
    if choice.get("type") in ("any", "tool"):
        # The API refuses a forced tool together with thinking; the tool is what the caller's program needs.
        losses.dropped("reasoning")
        return {}, ""
    if settings.adaptive:
        return {"type": "adaptive"}, _choose_effort(reasoning, losses)
    if _continues_without_thinking(messages):
        losses.dropped("reasoning")
        return {}, ""
    budget = reasoning.budget_tokens
    if budget is None:
        budget = EFFORT_BUDGETS.get(reasoning.effort, EFFORT_BUDGETS["medium"])
        losses.changed("reasoning")
    elif budget < MIN_THINKING_TOKENS:
        budget = MIN_THINKING_TOKENS
        losses.changed("reasoning")
    return {"type": "enabled", "budget_tokens": budget}, ""


def _choose_effort(reasoning: Reasoning, losses: Losses) -> str:
    budget = reasoning.budget_tokens
    if budget is not None:
        losses.changed("reasoning.budget_tokens")
        if not reasoning.effort:
            fitting = [
                word for word, tokens in EFFORT_BUDGETS.items() if tokens >= budget and word != "minimal"
            ]
            return fitting[0] if fitting else "max"
    if reasoning.effort == "minimal":
        losses.changed("reasoning.effort")
        return "low"
    if reasoning.effort and reasoning.effort not in EFFORT_BUDGETS:
        losses.dropped("reasoning.effort")
        return ""
    return reasoning.effort


def _continues_without_thinking(messages: list[Block]) -> bool:
    """Whether an open tool loop's last assistant turn starts without thinking: budgeted thinking is refused
    there."""
    if len(messages) < 2 or messages[-1]["role"] != "user":
        return False
    if messages[-1]["content"][0]["type"] != "tool_result" or messages[-2]["role"] != "assistant":
        return False
    return messages[-2]["content"][0]["type"] not in ("thinking", "redacted_thinking")


def _fit_thinking(thinking: Block, max_tokens: int, losses: Losses) -> Block:
    """Bounds the budget under `max_tokens`, or gives thinking up where both can't be."""
    if "budget_tokens" not in thinking or thinking["budget_tokens"] < max_tokens:
        return thinking
    if max_tokens <= MIN_THINKING_TOKENS:
        losses.dropped("reasoning")
        return {}
    losses.changed("reasoning")
    # A quarter stays for the answer, which would be empty otherwise.
    return {**thinking, "budget_tokens": max(MIN_THINKING_TOKENS, max_tokens * 3 // 4)}


def _encode_output(
    wanted: OutputFormat | None, system: list[Block], settings: EncodingSettings, losses: Losses
) -> Block:
    """`output_config` with the schema; a JSON object without one has no equivalent and becomes an
    instruction."""
    if wanted is None:
        return {}
    if wanted.kind == "json_schema" and wanted.schema is not None and settings.structured_outputs:
        if wanted.description:
            losses.dropped("response_format.description")
        return {"format": {"type": "json_schema", "schema": wanted.schema}}
    losses.changed("response_format")
    text = _JSON_ONLY
    if wanted.schema is not None:
        text += f" It must match this JSON Schema: {msgspec.json.encode(wanted.schema).decode()}"
    system.append({"type": "text", "text": text})
    return {}


def _encode_sampling(call: ChatCall, thinking: Block, settings: EncodingSettings, losses: Losses) -> Block:
    """Temperature and its kin; thinking takes none of them but a `top_p` from 0.95 on, and Claude not both of
    two."""
    body: Block = {}
    thinks = thinking.get("type") in ("enabled", "adaptive")
    if call.temperature is not None:
        temperature = min(max(call.temperature, 0.0), 1.0)
        if thinks and temperature != 1.0:
            losses.dropped("temperature")
        else:
            body["temperature"] = temperature
            if temperature != call.temperature:
                losses.changed("temperature")
    if call.top_p is not None:
        if (thinks and not 0.95 <= call.top_p <= 1.0) or ("temperature" in body and settings.is_claude):
            losses.dropped("top_p")
        else:
            body["top_p"] = call.top_p
    if call.top_k is not None:
        if thinks:
            losses.dropped("top_k")
        else:
            body["top_k"] = call.top_k
    return body


def _encode_rest(call: ChatCall, losses: Losses) -> Block:
    body: Block = {}
    stops = [stop for stop in call.stop if stop.strip()]
    if len(stops) != len(call.stop):
        losses.dropped("stop")
    if stops:
        body["stop_sequences"] = stops
    if call.user:
        if len(call.user) <= MAX_USER_CHARACTERS:
            body["metadata"] = {"user_id": call.user}
        else:
            losses.dropped("user")
    if call.service_tier:
        tier = _TIERS.get(call.service_tier)
        if tier is None:
            losses.dropped("service_tier")
        else:
            body["service_tier"] = tier
            if tier != call.service_tier:
                losses.changed("service_tier")
    for name in ("seed", "frequency_penalty", "presence_penalty"):
        if getattr(call, name) is not None:
            losses.dropped(name)
    if call.stream:
        body["stream"] = True
    return body
