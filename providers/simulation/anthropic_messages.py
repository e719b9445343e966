"""Anthropic's `POST /v1/messages` and `/v1/messages/count_tokens`, simulated. Data plane, pure."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from .answers import Call, Frame, Json, Reply, SimulatedUsage
from .anthropic_input import check, prompt_blocks, refuse, thinks
from .cache import Block
from .dice import digest
from .failures import context_failure
from .generation import Generation, Tool, ToolCall, Wish, generate
from .signatures import sign
from .tokens import MESSAGE_OVERHEAD_TOKENS, REPLY_OVERHEAD_TOKENS, count_json, count_part, count_text, pieces

_THINKING_TOKENS = 24
_ARGUMENT_PIECE_TOKENS = 3
_FINISH = {"stop": "end_turn", "stop_sequence": "stop_sequence", "length": "max_tokens", "tools": "tool_use"}
_encode = msgspec.json.encode


def respond(call: Call) -> Reply:
    """The message or its event stream; raises SimulatedFailure for what the vendor refuses."""
    request = call.request
    messages = check(call)
    tools = _tools(request)
    wish = _wish(call, messages, tools)
    blocks = _measured(request, messages)
    total = input_tokens(request, messages, blocks)
    window = call.settings.context_window
    if window is not None and total > window:
        raise context_failure(call.surface, total, window)
    made = generate(wish)
    cached = call.cache.visit(blocks, call.settings.cache_minimum, call.now())
    usage = SimulatedUsage(
        input=total - cached.read - cached.write_5m - cached.write_1h,
        output=made.tokens,
        cache_read=cached.read,
        cache_write_5m=cached.write_5m,
        cache_write_1h=cached.write_1h,
        reasoning=made.thinking_tokens,
    )
    if request.get("stream"):
        return call.stream(_frames(call, made, usage), usage)
    return call.answer(_document(call, made, usage), usage)


def count(call: Call) -> Reply:
    """The input tokens that the same request would be billed for, cached or not."""
    messages = check(call, counting=True)
    total = input_tokens(call.request, messages, _measured(call.request, messages))
    return call.answer({"input_tokens": total}, SimulatedUsage())


def input_tokens(request: Json, messages: list[Json], blocks: list[Block]) -> int:
    """3, and 4 for each message, and the tokens of every block of tools, system and messages, and of the
    schema.
    """
    content = blocks[-1].tokens if blocks else 0
    schema = _schema(request)
    extra = count_json(schema) if schema is not None else 0
    return REPLY_OVERHEAD_TOKENS + MESSAGE_OVERHEAD_TOKENS * len(messages) + content + extra


def _measured(request: Json, messages: list[Json]) -> list[Block]:
    blocks: list[Block] = []
    prefix, total = str(request["model"]).encode(), 0
    for place, block in prompt_blocks(request, messages):
        bare = {name: value for name, value in block.items() if name != "cache_control"}
        prefix = digest(prefix, place.encode(), _encode(bare))
        total += count_json(bare) if place == "tools" else count_part(bare)
        control = block.get("cache_control")
        blocks.append(
            Block(prefix, total, control.get("ttl", "5m") if isinstance(control, Mapping) else None)
        )
    automatic = request.get("cache_control")
    if isinstance(automatic, Mapping) and blocks and blocks[-1].lifetime is None:
        blocks[-1] = Block(prefix, total, automatic.get("ttl", "5m"))
    return blocks


def _schema(request: Json) -> Any:
    config = request.get("output_config")
    wanted = config.get("format") if isinstance(config, Mapping) else None
    if wanted is None:
        wanted = request.get("output_format")
    if not isinstance(wanted, Mapping):
        return None
    if wanted.get("type") != "json_schema" or not isinstance(wanted.get("schema"), Mapping):
        raise refuse("output_config.format.schema: Field required")
    return wanted["schema"]


def _tools(request: Json) -> tuple[Tool, ...]:
    tools = []
    for index, tool in enumerate(request.get("tools") or ()):
        if not isinstance(tool, Mapping) or not tool.get("name"):
            raise refuse(f"tools.{index}.custom.name: Field required")
        if tool.get("type") not in (None, "custom"):
            # Server tools run at the vendor; the simulated model never asks for one.
            continue
        if "input_schema" not in tool:
            raise refuse(f"tools.{index}.custom.input_schema: Field required")
        tools.append(Tool(str(tool["name"]), tool["input_schema"]))
    return tuple(tools)


def _choice(request: Json, tools: tuple[Tool, ...]) -> tuple[str, bool]:
    choice = request.get("tool_choice")
    if not isinstance(choice, Mapping):
        return "auto", True
    parallel = not choice.get("disable_parallel_tool_use")
    kind = choice.get("type")
    if kind not in ("auto", "any", "tool", "none"):
        raise refuse("tool_choice.type: Input should be 'auto', 'any', 'tool' or 'none'")
    if kind in ("any", "tool") and not tools:
        raise refuse("tool_choice may only be specified while providing tools.")
    if kind != "tool":
        return str(kind), parallel
    if choice.get("name") not in [tool.name for tool in tools]:
        raise refuse(f"Tool '{choice.get('name')}' not found in provided tools")
    return f"={choice['name']}", parallel


def _wish(call: Call, messages: list[Json], tools: tuple[Tool, ...]) -> Wish:
    request = call.request
    # Claude Code ends with a note of its own to the model, which is no turn of the conversation.
    last = next((message for message in reversed(messages) if message["role"] != "system"), messages[-1])
    choice, parallel = _choice(request, tools)
    texts = [block["text"] for block in last["content"] if block["type"] == "text"]
    bare = [
        [
            message["role"],
            *({k: v for k, v in block.items() if k != "cache_control"} for block in message["content"]),
        ]
        for message in messages
    ]
    return Wish(
        seed=digest(_encode([call.model, bare])),
        last_text=texts[-1] if texts and last["role"] == "user" else "",
        after_tool=any(block["type"] == "tool_result" for block in last["content"]),
        tools=tools,
        choice=choice,
        parallel=parallel,
        format=_schema(request),
        limit=request["max_tokens"],
        tokens=call.settings.tokens,
        stops=tuple(request.get("stop_sequences") or ()),
        thinking_tokens=_THINKING_TOKENS if thinks(request) else 0,
        speaks_before_tools=choice == "auto",
    )


def usage_document(usage: SimulatedUsage, output: int) -> Json:
    """Anthropic's usage object with this many output tokens."""
    return {
        "input_tokens": usage.input,
        "cache_creation_input_tokens": usage.cache_write_5m + usage.cache_write_1h,
        "cache_read_input_tokens": usage.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_5m,
            "ephemeral_1h_input_tokens": usage.cache_write_1h,
        },
        "output_tokens": output,
        "service_tier": "standard",
        "inference_geo": "not_available",
    }


def _message_document(call: Call) -> Json:
    return {
        "model": call.model,
        "id": f"msg_{call.request_id.removeprefix('req_')}",
        "type": "message",
        "role": "assistant",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
    }


def _document(call: Call, made: Generation, usage: SimulatedUsage) -> Json:
    body = _message_document(call)
    body["content"] = [*_thinking_blocks(call, made)]
    if made.text:
        body["content"].append({"type": "text", "text": made.text})
    for tool_call in made.calls:
        given = msgspec.json.decode(tool_call.arguments) if tool_call.whole else {}
        body["content"].append({**_tool_block(tool_call), "input": given})
    body["stop_reason"] = _FINISH[made.finish]
    body["stop_sequence"] = made.stop_sequence
    body["usage"] = usage_document(usage, usage.output)
    if made.thinking:
        body["usage"]["output_tokens_details"] = {"thinking_tokens": made.thinking_tokens}
    return body


def _shown_thinking(call: Call, made: Generation) -> str:
    return "" if call.request["thinking"].get("display") == "omitted" else made.thinking


def _thinking_blocks(call: Call, made: Generation) -> Iterator[Json]:
    if made.thinking:
        shown = _shown_thinking(call, made)
        yield {"type": "thinking", "thinking": shown, "signature": sign(shown, call.key)}


def _tool_block(tool_call: ToolCall) -> Json:
    return {"type": "tool_use", "id": f"toolu_{tool_call.suffix}", "name": tool_call.name, "input": {}}


def event(name: str, document: Json) -> bytes:
    """One server-sent event as Anthropic writes it: its name, and data that repeats the name as `type`."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode({"type": name, **document}))


def _frames(call: Call, made: Generation, usage: SimulatedUsage) -> Iterator[Frame]:
    reports = call.settings.reports_usage
    message = _message_document(call)
    if reports:
        message["usage"] = usage_document(usage, 1)
    yield Frame(event("message_start", {"message": message}))
    yield Frame(event("ping", {}))
    for index, parts in enumerate(_block_frames(call, made)):
        yield from (_numbered(part, index) for part in parts)
    ending: Json = {
        "delta": {
            "stop_reason": _FINISH[made.finish],
            "stop_sequence": made.stop_sequence,
            "stop_details": None,
        }
    }
    if reports:
        ending["usage"] = _final_usage(made, usage)
    yield Frame(event("message_delta", ending))
    yield Frame(event("message_stop", {}))


def _final_usage(made: Generation, usage: SimulatedUsage) -> Json:
    full = usage_document(usage, usage.output)
    names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
    shown: Json = {name: full[name] for name in names}
    if made.thinking:
        shown["output_tokens_details"] = {"thinking_tokens": made.thinking_tokens}
    return shown


_Part = tuple[bytes, bytes, float, int]


def _numbered(part: _Part, index: int) -> Frame:
    before, after, delay, tokens = part
    return Frame(b"%b%d%b" % (before, index, after), delay, tokens, content=tokens > 0)


def _block_frames(call: Call, made: Generation) -> Iterator[Iterator[_Part]]:
    gap = call.settings.gap
    if made.thinking:
        yield _thinking_parts(call, made, gap)
    if made.text:
        yield _text_parts(made.text, gap)
    for tool_call in made.calls:
        yield _tool_parts(tool_call, gap)


def _start(block: Json) -> _Part:
    after = b',"content_block":' + _encode(block) + b"}\n\n"
    return b'event: content_block_start\ndata: {"type":"content_block_start","index":', after, 0.0, 0


def _delta(kind: bytes, field: bytes, value: str, delay: float, tokens: int) -> _Part:
    after = b',"delta":{"type":"%b","%b":%b}}\n\n' % (kind, field, _encode(value))
    return b'event: content_block_delta\ndata: {"type":"content_block_delta","index":', after, delay, tokens


_STOP: _Part = (b'event: content_block_stop\ndata: {"type":"content_block_stop","index":', b"}\n\n", 0.0, 0)


def _thinking_parts(call: Call, made: Generation, gap: float) -> Iterator[_Part]:
    yield _start({"type": "thinking", "thinking": "", "signature": ""})
    shown = _shown_thinking(call, made)
    for piece in pieces(shown):
        yield _delta(b"thinking_delta", b"thinking", piece, gap, 1)
    hidden = made.thinking_tokens - count_text(shown)
    yield _delta(b"signature_delta", b"signature", sign(shown, call.key), gap, hidden)
    yield _STOP


def _text_parts(text: str, gap: float) -> Iterator[_Part]:
    yield _start({"type": "text", "text": ""})
    for piece in pieces(text):
        yield _delta(b"text_delta", b"text", piece, gap, 1)
    yield _STOP


def _tool_parts(tool_call: ToolCall, gap: float) -> Iterator[_Part]:
    yield _start(_tool_block(tool_call))
    # Anthropic opens a tool's input with an empty fragment; the name's tokens are booked on it.
    yield _delta(b"input_json_delta", b"partial_json", "", gap, count_text(tool_call.name))
    for piece in pieces(tool_call.arguments, _ARGUMENT_PIECE_TOKENS):
        yield _delta(b"input_json_delta", b"partial_json", piece, gap, count_text(piece))
    yield _STOP
