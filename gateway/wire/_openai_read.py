"""Reads a whole request of OpenAI's chat format into a ChatCall. Data plane; `_openai_parts` reads what stands in messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gateway.wire._openai_fields import Fields, refused
from gateway.wire._openai_parts import narrow, read_cache, read_calls, read_content, read_thinking
from tokenhub.core.chat import (
    AudioPart,
    ChatCall,
    FilePart,
    ImagePart,
    Losses,
    Message,
    OutputFormat,
    Part,
    Reasoning,
    RefusalPart,
    TextPart,
    ThinkingPart,
    Tool,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
)

_USER_PARTS = (TextPart, ImagePart, FilePart, AudioPart)
_ASSISTANT_PARTS = (TextPart, RefusalPart, ThinkingPart)


def read_chat_call(body: Mapping[str, Any]) -> ChatCall:
    """The call. Raises InvalidRequest with the path; members that ChatCall can't hold are named in its losses."""
    fields, losses = Fields(body, ""), Losses()
    fields.need_text("model")
    options = fields.object("stream_options")
    call = ChatCall(
        messages=tuple(_Messages(fields, losses)),
        tools=(*_read_tools(fields, losses), *_read_functions(fields, losses)),
        tool_choice=_read_tool_choice(fields, losses),
        parallel_tools=fields.flag("parallel_tool_calls"),
        output_format=_read_format(fields),
        reasoning=_read_reasoning(fields, losses),
        max_tokens=_read_limit(fields, losses),
        temperature=fields.number("temperature"),
        top_p=fields.number("top_p"),
        top_k=fields.whole("top_k"),
        stop=_read_stop(fields),
        seed=_read_seed(fields),
        frequency_penalty=fields.number("frequency_penalty"),
        presence_penalty=fields.number("presence_penalty"),
        n=fields.whole("n", 1) or 1,
        user=fields.text("user"),
        service_tier=fields.text("service_tier"),
        stream=bool(fields.flag("stream")),
        include_usage=bool(options and options.flag("include_usage")),
        losses=losses,
    )
    if options is not None:
        options.name_unread(losses)
    fields.name_unread(losses)
    return call


class _Messages:
    """The messages in order; consecutive tool messages become one user message of results."""

    def __init__(self, fields: Fields, losses: Losses) -> None:
        self._fields = fields
        self._losses = losses
        self._legacy_ids: dict[str, str] = {}

    def __iter__(self) -> Iterator[Message]:
        if not self._fields.items("messages"):
            raise refused("messages", "must be an array with at least one message")
        results: list[Part] = []
        for number, fields in enumerate(self._fields.objects("messages")):
            role = fields.need_text("role")
            if role in ("tool", "function"):
                results.append(self._read_result(fields, role))
            else:
                if results:
                    yield Message("user", tuple(results))
                    results = []
                yield self._read_message(fields, role, number)
            fields.name_unread(self._losses)
        if results:
            yield Message("user", tuple(results))

    def _read_message(self, fields: Fields, role: str, number: int) -> Message:
        content = read_content(fields, self._losses)
        name = fields.text("name")
        match role:
            case "system" | "developer":
                return Message(role, narrow(self._need(content, fields), fields, (TextPart,), role), name)
            case "user":
                parts = narrow(self._need(content, fields), fields, _USER_PARTS, role)
                return Message("user", parts, name)
            case "assistant":
                parts = narrow(content, fields, _ASSISTANT_PARTS, role)
                return Message("assistant", self._read_assistant(fields, parts, number), name)
            case _:
                raise refused(fields.at("role"), f"unknown role {role!r}")

    def _need(self, content: tuple[Any, ...], fields: Fields) -> tuple[Any, ...]:
        if fields.values.get("content") is None:
            raise refused(fields.at("content"), "must be a string or an array of parts")
        return content

    def _read_assistant(self, fields: Fields, content: tuple[Part, ...], number: int) -> tuple[Part, ...]:
        # An empty text beside calls is how many clients write "no text".
        parts = [part for part in content if not (isinstance(part, TextPart) and not part.text)]
        if refusal := fields.text("refusal"):
            parts.append(RefusalPart(refusal))
        if fields.find("audio") is not None:
            self._losses.dropped(fields.at("audio"))
        calls = [*read_calls(fields, self._losses), *self._read_function_call(fields, number)]
        return (*read_thinking(fields, self._losses), *parts, *calls)

    def _read_function_call(self, fields: Fields, number: int) -> Iterator[ToolCallPart]:
        """The old `function_call`, which has no id: its result is the next `function` message of its name."""
        call = fields.object("function_call")
        if call is not None:
            name = call.need_text("name")
            self._legacy_ids[name] = f"call_{number}"
            yield ToolCallPart(f"call_{number}", name, call.text("arguments"))

    def _read_result(self, fields: Fields, role: str) -> ToolResultPart:
        content = narrow(
            self._need(read_content(fields, self._losses), fields),
            fields,
            (TextPart, ImagePart, FilePart),
            role,
        )
        if role == "tool":
            call_id = fields.need_text("tool_call_id")
            fields.find("name")
        else:
            name = fields.need_text("name")
            call_id = self._legacy_ids.get(name, f"call_{name}")
        texts = tuple(part for part in content if isinstance(part, TextPart | ImagePart | FilePart))
        return ToolResultPart(call_id, texts)


def _read_tools(fields: Fields, losses: Losses) -> Iterator[Tool]:
    for item in fields.objects("tools"):
        # Mistral's SDK leaves the type out.
        if (item.text("type") or "function") != "function":
            # Custom and hosted tools run nowhere else.
            losses.dropped(item.path)
            continue
        function = item.need_object("function")
        cache = read_cache(item, losses) or read_cache(function, losses)
        yield Tool(
            name=function.need_text("name"),
            description=function.text("description"),
            schema=_read_schema(function, "parameters"),
            strict=function.flag("strict"),
            cache=cache,
        )
        function.name_unread(losses)


def _read_functions(fields: Fields, losses: Losses) -> Iterator[Tool]:
    """The old `functions`. The answer's calls come as `tool_calls`, hence the loss."""
    for function in fields.objects("functions"):
        losses.changed("functions")
        yield Tool(
            function.need_text("name"), function.text("description"), _read_schema(function, "parameters")
        )
        function.name_unread(losses)


def _read_schema(fields: Fields, name: str) -> Mapping[str, Any] | None:
    found = fields.object(name)
    return None if found is None else found.values


def _read_tool_choice(fields: Fields, losses: Losses) -> ToolChoice | None:
    choice = fields.find("tool_choice")
    legacy = fields.find("function_call")
    if choice is None and legacy is not None:
        if isinstance(legacy, str):
            return ToolChoice(_read_mode(legacy, "function_call"))
        return ToolChoice("named", fields.need_object("function_call").need_text("name"))
    if choice is None:
        return None
    if isinstance(choice, str):
        return ToolChoice(_read_mode(choice, "tool_choice"))
    return _read_chosen(fields.need_object("tool_choice"), losses)


def _read_chosen(chosen: Fields, losses: Losses) -> ToolChoice | None:
    match chosen.text("type") or "function":
        case "function":
            return ToolChoice("named", chosen.need_object("function").need_text("name"))
        case "allowed_tools":
            # The subset can't be told; leaving the other tools out would spoil the caller's prompt cache.
            losses.changed("tool_choice")
            allowed = chosen.need_object("allowed_tools")
            return ToolChoice(_read_mode(allowed.text("mode") or "auto", allowed.at("mode")))
        case "auto" | "none" | "required" as mode:
            return ToolChoice(_read_mode(mode, "tool_choice.type"))
        case _:
            losses.dropped("tool_choice")
            return None


def _read_mode(mode: str, path: str) -> Any:
    if mode == "any":
        # Mistral's word.
        return "required"
    if mode not in ("auto", "none", "required"):
        raise refused(path, f"must be auto, none or required, not {mode!r}")
    return mode


def _read_format(fields: Fields) -> OutputFormat | None:
    wanted = fields.object("response_format")
    if wanted is None:
        return None
    match wanted.need_text("type"):
        case "text":
            return None
        case "json_object":
            return OutputFormat("json_object")
        case "json_schema":
            schema = wanted.need_object("json_schema")
            return OutputFormat(
                "json_schema",
                name=schema.text("name"),
                schema=_read_schema(schema, "schema"),
                strict=schema.flag("strict"),
                description=schema.text("description"),
            )
        case kind:
            raise refused(wanted.at("type"), f"must be text, json_object or json_schema, not {kind!r}")


def _read_reasoning(fields: Fields, losses: Losses) -> Reasoning | None:
    """`reasoning_effort`; else Anthropic's `thinking` or OpenRouter's `reasoning`, as extensions."""
    effort = fields.text("reasoning_effort")
    thinking, reasoning = fields.object("thinking"), fields.object("reasoning")
    if thinking is not None:
        kind = thinking.text("type")
        budget = 0 if kind == "disabled" else thinking.whole("budget_tokens", 0)
        thinking.name_unread(losses)
        if kind or effort:
            return Reasoning(effort, budget, adaptive=kind == "adaptive")
    if reasoning is not None:
        off = reasoning.flag("enabled") is False
        found = Reasoning(effort or reasoning.text("effort"), 0 if off else reasoning.whole("max_tokens", 0))
        reasoning.name_unread(losses)
        return found
    return Reasoning(effort) if effort else None


def _read_limit(fields: Fields, losses: Losses) -> int | None:
    """`max_completion_tokens`, or the older `max_tokens` where that stands alone."""
    newer, older = fields.whole("max_completion_tokens", 1), fields.whole("max_tokens", 1)
    if newer is not None and older is not None and newer != older:
        losses.dropped("max_tokens")
    return newer if newer is not None else older


def _read_stop(fields: Fields) -> tuple[str, ...]:
    stop = fields.find("stop")
    if stop is None:
        return ()
    if isinstance(stop, str):
        return (stop,) if stop else ()
    for number, item in enumerate(fields.items("stop")):
        if not isinstance(item, str):
            raise refused(f"stop[{number}]", "must be a string")
    return tuple(fields.items("stop"))


def _read_seed(fields: Fields) -> int | None:
    seed = fields.whole("seed")
    return seed if seed is not None else fields.whole("random_seed")
