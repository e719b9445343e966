"""OpenAI's `POST /v1/chat/completions`, simulated. Data plane, pure."""

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

import msgspec

from .answers import Call, Frame, Json, Reply, SimulatedUsage
from .dice import digest
from .failures import SimulatedFailure
from .generation import Generation, Tool, ToolCall, Wish, generate
from .openai_input import (
    CHAT_FIELDS,
    check_common,
    check_messages,
    check_window,
    missing,
    prompt_tokens,
    stops,
)
from .tokens import count_text, pieces

_ARGUMENT_PIECE_TOKENS = 3
_LOGPROB = -0.0101
_REASONING_TOKENS = {"low": 8, "medium": 16, "high": 32, "xhigh": 48}
_FINISH = {"stop": "stop", "stop_sequence": "stop", "length": "length", "tools": "tool_calls"}
DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.encode


def respond(call: Call) -> Reply:
    """The answer or the stream; raises SimulatedFailure for what the vendor refuses."""
    request = call.request
    check_common(call, CHAT_FIELDS)
    messages = check_messages(request.get("messages"))
    wanted = _format(request, messages)
    tools = _tools(request)
    input_tokens = prompt_tokens(request, messages)
    check_window(call, input_tokens)
    generations = [
        generate(_wish(call, messages, tools, wanted, index)) for index in range(request.get("n") or 1)
    ]
    usage = SimulatedUsage(
        input=input_tokens,
        output=sum(generation.tokens for generation in generations),
        reasoning=sum(generation.thinking_tokens for generation in generations),
    )
    if request.get("stream"):
        return call.stream(_frames(call, generations, usage), usage)
    return call.answer(_document(call, generations, usage), usage)


def _wish(call: Call, messages: list[Json], tools: tuple[Tool, ...], wanted: object, index: int) -> Wish:
    request = call.request
    notes = ("system", "developer")
    last = next((message for message in reversed(messages) if message["role"] not in notes), messages[-1])
    seed = digest(_encode([call.model, messages, request.get("seed"), index]))
    return Wish(
        seed=seed,
        last_text=_last_text(last) if last["role"] == "user" else "",
        after_tool=last["role"] == "tool",
        tools=tools,
        choice=_choice(request, tools),
        parallel=request.get("parallel_tool_calls") is not False,
        format=wanted,
        limit=request.get("max_completion_tokens") or request.get("max_tokens"),
        tokens=call.settings.tokens,
        stops=stops(request),
        thinking_tokens=_REASONING_TOKENS.get(str(request.get("reasoning_effort")), 0),
    )


def _last_text(message: Json) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    texts = [part["text"] for part in content or () if part.get("type") == "text"]
    return str(texts[-1]) if texts else ""


def _tools(request: Json) -> tuple[Tool, ...]:
    tools = []
    for index, tool in enumerate(request.get("tools") or ()):
        if tool.get("type") != "function":
            continue
        function = tool.get("function")
        if not isinstance(function, Mapping) or not function.get("name"):
            raise missing(f"tools[{index}].function.name")
        parameters = function.get("parameters") or {"type": "object", "properties": {}}
        tools.append(Tool(str(function["name"]), parameters))
    return tuple(tools)


def _choice(request: Json, tools: tuple[Tool, ...]) -> str:
    choice = request.get("tool_choice")
    if choice is None:
        return "auto"
    if not request.get("tools"):
        raise SimulatedFailure(
            400,
            "Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are specified.",
            param="tool_choice",
        )
    if isinstance(choice, str):
        return "any" if choice == "required" else choice
    if choice.get("type") == "allowed_tools":
        return "any" if choice.get("allowed_tools", {}).get("mode") == "required" else "auto"
    name = choice.get("function", {}).get("name")
    if name not in [tool.name for tool in tools]:
        raise SimulatedFailure(
            400,
            f"Invalid value for 'tool_choice': no function named '{name}' was specified in the 'tools' "
            f"parameter.",
            param="tool_choice",
        )
    return f"={name}"


def _format(request: Json, messages: list[Json]) -> object | None:
    wanted = request.get("response_format")
    if not isinstance(wanted, Mapping) or wanted.get("type") == "text":
        return None
    if wanted.get("type") == "json_object":
        if b"json" not in _encode(messages).lower():
            raise SimulatedFailure(
                400,
                "'messages' must contain the word 'json' in some form, to use 'response_format' of type "
                "'json_object'.",
                param="messages",
            )
        return {
            "type": "object",
            "properties": {
                "answer": {"type": "string"},
                "confidence": {"type": "number", "minimum": 0, "maximum": 1},
            },
        }
    schema = wanted.get("json_schema")
    if not isinstance(schema, Mapping):
        raise missing("response_format.json_schema")
    if not schema.get("name"):
        raise missing("response_format.json_schema.name")
    return schema.get("schema") or {"type": "object"}


def usage_document(usage: SimulatedUsage) -> Json:
    """OpenAI's usage object."""
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def fingerprint(call: Call) -> str:
    """The `system_fingerprint` of the dialect."""
    return "vllm-0.32.0-simulated" if call.surface == "vllm" else "fp_simulated"


def _finish(call: Call, generation: Generation) -> str:
    # OpenAI reports "stop", not "tool_calls", when the request named the function to call.
    named = isinstance(call.request.get("tool_choice"), Mapping) and "function" in call.request["tool_choice"]
    return "stop" if named and generation.finish == "tools" else _FINISH[generation.finish]


def _document(call: Call, generations: list[Generation], usage: SimulatedUsage) -> Json:
    return {
        "id": f"chatcmpl-{call.request_id.removeprefix('req_')}",
        "object": "chat.completion",
        "created": int(call.now()),
        "model": call.model,
        "choices": [_choice_document(call, index, made) for index, made in enumerate(generations)],
        "usage": usage_document(usage),
        "service_tier": "default",
        "system_fingerprint": fingerprint(call),
    }


def _choice_document(call: Call, index: int, made: Generation) -> Json:
    message: Json = {"role": "assistant", "content": made.text or (None if made.calls else "")}
    message |= {"refusal": None, "annotations": []}
    if made.calls:
        message["tool_calls"] = [_call_document(tool_call) for tool_call in made.calls]
    logprobs: Json | None = None
    if call.request.get("logprobs") and made.text:
        logprobs = {"content": [_logprob(piece, call) for piece in pieces(made.text)], "refusal": None}
    return {
        "index": index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": _finish(call, made),
    }


def _call_document(tool_call: ToolCall) -> Json:
    function = {"name": tool_call.name, "arguments": tool_call.arguments}
    return {"id": f"call_{tool_call.suffix}", "type": "function", "function": function}


def _logprob(piece: str, call: Call) -> Json:
    entry = {"token": piece, "logprob": _LOGPROB, "bytes": list(piece.encode())}
    return {**entry, "top_logprobs": [entry] if call.request.get("top_logprobs") else []}


class _Chunks:
    """Renders chunks: all that a stream's chunks share is encoded once."""

    def __init__(self, call: Call) -> None:
        options = call.request.get("stream_options") or {}
        self.usage_asked = bool(options.get("include_usage")) and call.settings.reports_usage
        self._call = call
        shared = {
            "id": f"chatcmpl-{call.request_id.removeprefix('req_')}",
            "object": "chat.completion.chunk",
            "created": int(call.now()),
            "model": call.model,
            "service_tier": "default",
            "system_fingerprint": fingerprint(call),
        }
        self._start = b"data: " + _encode(shared)[:-1] + b',"choices":['
        self._end = b'],"usage":null}\n\n' if self.usage_asked else b"]}\n\n"

    def delta(self, index: int, delta: Json, finish: str | None = None) -> bytes:
        choice: Json = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._start + _encode(choice) + self._end

    def text(self, index: int, piece: str) -> bytes:
        logprobs = b"null"
        if self._call.request.get("logprobs"):
            logprobs = _encode({"content": [_logprob(piece, self._call)], "refusal": None})
        return b'%b{"index":%d,"delta":{"content":%b},"logprobs":%b,"finish_reason":null}%b' % (
            self._start,
            index,
            _encode(piece),
            logprobs,
            self._end,
        )

    def usage(self, usage: SimulatedUsage) -> bytes:
        return self._start + b'],"usage":' + _encode(usage_document(usage)) + b"}\n\n"


def _frames(call: Call, generations: list[Generation], usage: SimulatedUsage) -> Iterator[Frame]:
    chunks = _Chunks(call)
    choices = [_choice_frames(call, chunks, index, made) for index, made in enumerate(generations)]
    if len(choices) == 1:
        yield from choices[0]
    else:
        for row in zip_longest(*choices):
            yield from (frame for frame in row if frame is not None)
    if chunks.usage_asked:
        yield Frame(chunks.usage(usage))
    yield Frame(DONE)


def _choice_frames(call: Call, chunks: _Chunks, index: int, made: Generation) -> Iterator[Frame]:
    opening = {"role": "assistant", "content": None if made.calls and not made.text else "", "refusal": None}
    yield Frame(chunks.delta(index, opening), tokens=made.thinking_tokens)
    gap = call.settings.gap
    for piece in pieces(made.text):
        yield Frame(chunks.text(index, piece), gap, 1, content=True)
    for number, tool_call in enumerate(made.calls):
        yield from _call_frames(chunks, index, number, tool_call, gap)
    yield Frame(chunks.delta(index, {}, _finish(call, made)))


def _call_frames(
    chunks: _Chunks, index: int, number: int, tool_call: ToolCall, gap: float
) -> Iterator[Frame]:
    head: Json = {**_call_document(tool_call), "function": {"name": tool_call.name, "arguments": ""}}
    opening = chunks.delta(index, {"tool_calls": [{"index": number, **head}]})
    yield Frame(opening, gap, count_text(tool_call.name), content=True)
    for piece in _fragments(tool_call.arguments):
        delta: dict[str, Any] = {"tool_calls": [{"index": number, "function": {"arguments": piece}}]}
        yield Frame(chunks.delta(index, delta), gap, count_text(piece), content=True)


def _fragments(arguments: str) -> list[str]:
    return pieces(arguments, _ARGUMENT_PIECE_TOKENS)
