"""Reads a Messages request as a ChatCall. Data plane; pure, no I/O.

Anthropic's own tools (web search, code execution, text editor, …) have no schema that another provider could
take: they are dropped and named, but a `tool_choice` that forces one is refused. `mcp_servers`, `container`,
`context_management` and unknown members are dropped and named.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.wire._anthropic_content import read_content, read_texts
from gateway.wire._anthropic_members import (
    find_integer,
    find_number,
    find_object,
    list_objects,
    list_texts,
    refuse,
    strip_indices,
    take_cache,
    take_flag,
    take_object,
    take_text,
)
from tokenhub.core.chat import (
    ChatCall,
    Losses,
    Message,
    OutputFormat,
    Reasoning,
    Role,
    Tool,
    ToolChoice,
)

_ROLES: Mapping[str, Role] = {"user": "user", "assistant": "assistant", "system": "system"}
_READ = frozenset(
    {
        "model",
        "messages",
        "max_tokens",
        "system",
        "tools",
        "tool_choice",
        "thinking",
        "output_config",
        "output_format",
        "temperature",
        "top_p",
        "top_k",
        "stop_sequences",
        "metadata",
        "service_tier",
        "stream",
    }
)
_TOOL_READ = frozenset({"type", "name", "description", "input_schema", "strict", "cache_control"})


def read_messages_call(body: Mapping[str, Any]) -> ChatCall:
    """The call of a whole request. Raises InvalidRequest naming the JSON path."""
    losses = Losses()
    tools = _read_tools(body, losses)
    choice, parallel = _read_choice(body, tools)
    stream = take_flag(body, "stream", "")
    for name, value in body.items():
        if name not in _READ and value is not None:
            losses.dropped(strip_indices(name))
    return ChatCall(
        messages=_read_messages(body, losses),
        tools=tools,
        tool_choice=choice,
        parallel_tools=parallel,
        output_format=_read_format(body, losses),
        reasoning=_read_reasoning(body, losses),
        max_tokens=find_integer(body, "max_tokens", "", 0),
        temperature=find_number(body, "temperature", "", 0.0, 1.0),
        top_p=find_number(body, "top_p", "", 0.0, 1.0),
        top_k=find_integer(body, "top_k", "", 0),
        stop=list_texts(body, "stop_sequences", ""),
        user=_read_user(body, losses),
        service_tier=take_text(body, "service_tier", "", default=""),
        stream=stream,
        # The format always tells usage, so a provider that must be asked for it is asked.
        include_usage=stream,
        losses=losses,
    )


def _read_messages(body: Mapping[str, Any], losses: Losses) -> tuple[Message, ...]:
    messages: list[Message] = []
    if system := read_texts(body, "system", losses):
        messages.append(Message("system", system))
    if not body.get("messages"):
        raise refuse("messages", "an array of at least one message is required")
    for path, item in list_objects(body, "messages", ""):
        role = _ROLES.get(take_text(item, "role", path))
        if role is None:
            raise refuse(f"{path}.role", 'must be "user", "assistant" or "system"')
        parts = read_content(item, path, role, losses)
        if parts:
            messages.append(Message(role, parts))
    return tuple(messages)


def _read_tools(body: Mapping[str, Any], losses: Losses) -> tuple[Tool, ...]:
    tools: list[Tool] = []
    for path, item in list_objects(body, "tools", ""):
        kind = take_text(item, "type", path, default="custom")
        if kind != "custom":
            losses.dropped(strip_indices(f"{path}.{kind}"))
            continue
        for name, value in item.items():
            if name not in _TOOL_READ and value:
                losses.dropped(strip_indices(f"{path}.{name}"))
        tools.append(
            Tool(
                name=take_text(item, "name", path),
                description=take_text(item, "description", path, default=""),
                schema=take_object(item, "input_schema", path),
                strict=take_flag(item, "strict", path) if item.get("strict") is not None else None,
                cache=take_cache(item, path),
            )
        )
    return tuple(tools)


def _read_choice(body: Mapping[str, Any], tools: tuple[Tool, ...]) -> tuple[ToolChoice | None, bool | None]:
    """The tool choice and whether calls may be parallel (None: not said)."""
    choice = find_object(body, "tool_choice", "")
    if choice is None:
        return None, None
    parallel = False if take_flag(choice, "disable_parallel_tool_use", "tool_choice") else None
    kind = take_text(choice, "type", "tool_choice")
    if kind == "auto":
        return ToolChoice("auto"), parallel
    if kind == "none":
        return ToolChoice("none"), parallel
    if kind == "any":
        if not tools:
            raise refuse("tool_choice.type", '"any" needs a tool that this model\'s provider can be given')
        return ToolChoice("required"), parallel
    if kind == "tool":
        name = take_text(choice, "name", "tool_choice")
        if all(tool.name != name for tool in tools):
            raise refuse("tool_choice.name", f"{name!r} is no tool that this model's provider can be given")
        return ToolChoice("named", name), parallel
    raise refuse("tool_choice.type", 'must be "auto", "any", "tool" or "none"')


def _read_format(body: Mapping[str, Any], losses: Losses) -> OutputFormat | None:
    """`output_config.format`, or `output_format` as the API's beta had it."""
    config = find_object(body, "output_config", "")
    wanted, path = None, "output_format"
    if config is not None:
        for name, value in config.items():
            if name not in ("effort", "format") and value is not None:
                losses.dropped(strip_indices(f"output_config.{name}"))
        wanted = find_object(config, "format", "output_config")
        path = "output_config.format"
    if wanted is None:
        wanted, path = find_object(body, "output_format", ""), "output_format"
    if wanted is None:
        return None
    if take_text(wanted, "type", path) != "json_schema":
        raise refuse(f"{path}.type", 'must be "json_schema"')
    return OutputFormat("json_schema", schema=take_object(wanted, "schema", path))


def _read_reasoning(body: Mapping[str, Any], losses: Losses) -> Reasoning | None:
    config = find_object(body, "output_config", "") or {}
    effort = take_text(config, "effort", "output_config", default="")
    thinking = find_object(body, "thinking", "")
    if thinking is None:
        return Reasoning(effort=effort) if effort else None
    if thinking.get("display") is not None:
        losses.dropped("thinking.display")
    kind = take_text(thinking, "type", "thinking")
    if kind == "disabled":
        return Reasoning(effort=effort, budget_tokens=0)
    if kind == "enabled":
        budget = find_integer(thinking, "budget_tokens", "thinking", 1)
        if budget is None:
            raise refuse("thinking.budget_tokens", "an integer of at least 1 is required")
        return Reasoning(effort=effort, budget_tokens=budget)
    if kind != "adaptive":
        losses.changed("thinking.type")
    return Reasoning(effort=effort, adaptive=True)


def _read_user(body: Mapping[str, Any], losses: Losses) -> str:
    metadata = find_object(body, "metadata", "")
    if metadata is None:
        return ""
    for name, value in metadata.items():
        if name != "user_id" and value is not None:
            losses.dropped(strip_indices(f"metadata.{name}"))
    return take_text(metadata, "user_id", "metadata", default="")
