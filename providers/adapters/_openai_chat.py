"""Writes a translated call as an OpenAI-style chat body, by the vendor's profile. Data plane; no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from providers.adapters._openai_messages import encode_messages
from providers.adapters._openai_profile import Profile
from tokenhub.core.chat import ChatCall, Losses, OutputFormat, Reasoning, Tool, ToolChoice

LOW_BUDGET, MEDIUM_BUDGET = 4_096, 16_384
"""Below the first a thinking budget in tokens is "low" effort, below the second "medium", else "high"."""

_EMPTY_SCHEMA: Mapping[str, Any] = {"type": "object", "properties": {}}


def encode_body(call: ChatCall, model: str, profile: Profile) -> tuple[dict[str, Any], Losses]:
    """The body, and what the format or the vendor can't hold, by the names of ChatCall's fields."""
    losses = Losses()
    body: dict[str, Any] = {"model": model, "messages": encode_messages(call.messages, profile, losses)}
    if call.max_tokens is not None:
        body[profile.max_tokens_field] = call.max_tokens
    _add_sampling(body, call, profile, losses)
    if call.tools:
        body["tools"] = [_encode_tool(tool, profile, losses) for tool in call.tools]
        if call.tool_choice is not None:
            body["tool_choice"] = _encode_tool_choice(call.tool_choice)
        if call.parallel_tools is not None:
            body["parallel_tool_calls"] = call.parallel_tools
    elif call.tool_choice is not None:
        # Without tools it is refused, and there is nothing to choose.
        losses.dropped("tool_choice")
    if call.output_format is not None:
        body["response_format"] = _encode_format(call.output_format, profile, losses)
    if call.reasoning is not None:
        _add_reasoning(body, call.reasoning, profile, losses)
    _add_tier(body, call.service_tier, profile, losses)
    if call.stream:
        body["stream"] = True
        if profile.stream_usage:
            body["stream_options"] = {"include_usage": True}
    return body, losses


def _add_sampling(body: dict[str, Any], call: ChatCall, profile: Profile, losses: Losses) -> None:
    for name in ("temperature", "top_p", "frequency_penalty", "presence_penalty"):
        if (value := getattr(call, name)) is not None:
            body[name] = value
    if call.top_k is not None:
        if profile.top_k:
            body["top_k"] = call.top_k
        else:
            losses.dropped("top_k")
    if call.seed is not None:
        body[profile.seed_field] = call.seed
    if call.n != 1:
        body["n"] = call.n
    if call.user:
        body["user"] = call.user
    if call.stop:
        stops = list(call.stop)
        if profile.max_stops and len(stops) > profile.max_stops:
            losses.changed("stop")
            stops = stops[: profile.max_stops]
        body["stop"] = stops


def _add_tier(body: dict[str, Any], tier: str, profile: Profile, losses: Losses) -> None:
    if not tier:
        return
    if not profile.service_tier:
        losses.dropped("service_tier")
    elif tier == "standard_only":
        # Anthropic's word for "no priority capacity".
        losses.changed("service_tier")
        body["service_tier"] = "default"
    else:
        body["service_tier"] = tier


def _encode_tool(tool: Tool, profile: Profile, losses: Losses) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    function["parameters"] = tool.schema if tool.schema is not None else _EMPTY_SCHEMA
    if tool.strict is not None:
        if profile.supports_strict:
            function["strict"] = tool.strict
        else:
            losses.dropped("tools.strict")
    encoded: dict[str, Any] = {"type": "function", "function": function}
    if tool.cache:
        profile.mark_cache(encoded, tool.cache, losses)
    return encoded


def _encode_tool_choice(choice: ToolChoice) -> Any:
    if choice.mode == "named":
        return {"type": "function", "function": {"name": choice.name}}
    return choice.mode


def _encode_format(wanted: OutputFormat, profile: Profile, losses: Losses) -> dict[str, Any]:
    if wanted.kind == "json_object":
        return {"type": "json_object"}
    if not profile.json_schema:
        losses.changed("response_format")
        return {"type": "json_object"}
    schema: dict[str, Any] = {"name": wanted.name or "answer", "schema": wanted.schema or {}}
    if wanted.description:
        schema["description"] = wanted.description
    if wanted.strict is not None:
        if profile.supports_strict:
            schema["strict"] = wanted.strict
        else:
            losses.dropped("response_format.strict")
    return {"type": "json_schema", "json_schema": schema}


def choose_effort(reasoning: Reasoning) -> str:
    """The effort word of a reasoning wish: its own, or one for its budget; "" where it states neither or switches off."""
    if reasoning.effort:
        # "max" is Anthropic's word above "high".
        return "xhigh" if reasoning.effort == "max" else reasoning.effort
    budget = reasoning.budget_tokens
    if not budget:
        return ""
    return "low" if budget < LOW_BUDGET else "medium" if budget < MEDIUM_BUDGET else "high"


def _add_reasoning(body: dict[str, Any], wanted: Reasoning, profile: Profile, losses: Losses) -> None:
    effort, off = choose_effort(wanted), wanted.budget_tokens == 0
    match profile.reasoning_parameter:
        case "reasoning_effort":
            if effort:
                body["reasoning_effort"] = effort
            if effort != wanted.effort:
                losses.changed("reasoning")
            elif wanted.adaptive or not effort:
                # There is no word for "on" or "decide yourself", and "none" is refused by most models.
                losses.dropped("reasoning")
        case "reasoning":
            body["reasoning"] = _encode_reasoning(wanted, effort, off)
            if wanted.adaptive or (effort and effort != wanted.effort and wanted.budget_tokens is None):
                losses.changed("reasoning")
        case "thinking":
            body["thinking"] = {"type": "disabled" if off or wanted.effort == "none" else "enabled"}
            if wanted.adaptive or wanted.budget_tokens or wanted.effort not in ("", "none"):
                losses.changed("reasoning")
        case _:
            losses.dropped("reasoning")


def _encode_reasoning(wanted: Reasoning, effort: str, off: bool) -> dict[str, Any]:
    """OpenRouter's object: an effort or a budget, never both."""
    if off:
        return {"enabled": False}
    if wanted.budget_tokens:
        return {"max_tokens": wanted.budget_tokens}
    return {"effort": effort} if effort else {"enabled": True}
