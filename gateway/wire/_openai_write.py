"""Writes answers and streams in OpenAI's chat format. Data plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from gateway.wire.base import StreamEncoder
from tokenhub.core.chat import (
    ChatAnswer,
    ChatCall,
    ChatEvent,
    Choice,
    Ended,
    Finished,
    FinishReason,
    PartDelta,
    PartStarted,
    PartStopped,
    RefusalPart,
    SignatureDelta,
    Started,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    UsageSeen,
)
from tokenhub.core.usage import Usage

_encode = msgspec.json.Encoder().encode
_DONE = b"data: [DONE]\n\n"

FINISH: Mapping[FinishReason, str] = {
    "stop": "stop",
    "stop_sequence": "stop",
    "pause": "stop",
    "other": "stop",
    "error": "stop",
    "length": "length",
    "context": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
}
"""OpenAI's finish reasons; a refusal is `stop` where the model's words stand in `refusal`, else `content_filter`."""


def write_finish(finish: FinishReason, *, refused: bool) -> str:
    """The finish reason; `refused`: the choice has a refusal's text."""
    if finish == "refusal":
        return "stop" if refused else "content_filter"
    return FINISH[finish]


def write_usage(usage: Usage) -> dict[str, Any]:
    """OpenAI's usage object. `cache_write_tokens` is OpenRouter's member, there only where something was written."""
    prompt = {"cached_tokens": usage.cache_read, "audio_tokens": usage.audio_in}
    if written := usage.cache_write_5m + usage.cache_write_1h:
        prompt["cache_write_tokens"] = written
    return {
        "prompt_tokens": usage.input_total,
        "completion_tokens": usage.output_total,
        "total_tokens": usage.input_total + usage.output_total,
        "prompt_tokens_details": prompt,
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": usage.audio_out,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def write_thinking(part: ThinkingPart) -> dict[str, str]:
    """One of `thinking_blocks`: what a client sends back to keep a thinking model's turn valid."""
    if part.redacted:
        return {"type": "redacted_thinking", "data": part.redacted}
    return {"type": "thinking", "thinking": part.text, "signature": part.signature}


def write_chat_answer(answer: ChatAnswer, model: str) -> bytes:
    """A `chat.completion`. Parts that it can't hold are named in the answer's losses."""
    choices = [
        {
            "index": index,
            "message": _write_message(choice, index, answer),
            "logprobs": None,
            "finish_reason": write_finish(
                choice.finish, refused=any(isinstance(part, RefusalPart) for part in choice.parts)
            ),
        }
        for index, choice in enumerate(answer.choices)
    ]
    body: dict[str, Any] = {
        "id": answer.id or "chatcmpl-0",
        "object": "chat.completion",
        "created": answer.created,
        "model": model,
        "choices": choices,
    }
    if answer.usage.source != "none":
        body["usage"] = write_usage(answer.usage)
    return _encode(body)


def _write_message(choice: Choice, index: int, answer: ChatAnswer) -> dict[str, Any]:
    texts = [part.text for part in choice.parts if isinstance(part, TextPart)]
    refusals = [part.text for part in choice.parts if isinstance(part, RefusalPart)]
    thoughts = [part for part in choice.parts if isinstance(part, ThinkingPart)]
    calls = [part for part in choice.parts if isinstance(part, ToolCallPart)]
    if len(texts) + len(refusals) + len(thoughts) + len(calls) < len(choice.parts):
        answer.losses.dropped(f"choices[{index}].message.content")
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(texts) if texts or not (calls or refusals) else None,
        "refusal": "".join(refusals) or None,
    }
    if thoughts:
        message["reasoning_content"] = "".join(part.text for part in thoughts)
        if any(part.signature or part.redacted for part in thoughts):
            message["thinking_blocks"] = [write_thinking(part) for part in thoughts]
    if calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments or "{}"},
            }
            for call in calls
        ]
    return message


class _PartState:
    """An open part: what its deltas are, and what must be known at its end."""

    __slots__ = ("call", "kind", "signature", "text", "written")

    def __init__(
        self, kind: Literal["text", "thinking", "redacted_thinking", "tool_call", "refusal"], call: int
    ) -> None:
        self.kind = kind
        self.call = call
        self.signature = ""
        self.text: list[str] = []
        self.written = False


class _ChoiceState:
    __slots__ = ("calls", "finished", "parts", "refused")

    def __init__(self) -> None:
        self.parts: dict[int, _PartState] = {}
        self.calls = 0
        self.finished = self.refused = False


class ChatStreamEncoder(StreamEncoder):
    """A stream of `chat.completion.chunk`: one id, time and model throughout, a role chunk first in every choice.

    Reasoning streams as `reasoning_content`. A part with a signature ends with one delta whose `thinking_blocks` holds the
    whole block, so a client collects blocks as they come and sends them back unchanged.
    """

    def __init__(self, *, model: str, call: ChatCall) -> None:
        self._include_usage = call.include_usage
        self._model = model
        self._usage: Usage | None = None
        self._choices: dict[int, _ChoiceState] = {}
        self._set_head("chatcmpl-0", 0)

    def _set_head(self, id: str, created: int) -> None:
        head = {"id": id, "object": "chat.completion.chunk", "created": created, "model": self._model}
        self._head = b"data: " + _encode(head)[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if self._include_usage else b"]}\n\n"
        self._text_head = self._head + b'{"index":0,"delta":{"content":'
        self._text_tail = b'},"logprobs":null,"finish_reason":null}' + self._tail

    def encode(self, events: Sequence[ChatEvent]) -> bytes:
        """The SSE bytes of these events."""
        return b"".join([self._write(event) for event in events])

    def end(self) -> bytes:
        """The end of choices that have none, the usage chunk if it was asked for, and `[DONE]`."""
        written = [self._finish(number, "stop") for number in self._choices]
        if self._include_usage and self._usage is not None:
            written.append(self._head + b'],"usage":' + _encode(write_usage(self._usage)) + b"}\n\n")
        written.append(_DONE)
        return b"".join(written)

    def _write(self, event: ChatEvent) -> bytes:
        match event:
            case PartDelta():
                return self._write_delta(event)
            case Started():
                self._set_head(event.id or "chatcmpl-0", event.created)
                self._usage = event.usage or self._usage
                return self._open(0)
            case PartStarted():
                return self._open(event.choice) + self._start_part(event)
            case SignatureDelta():
                self._part(event.choice, event.part).signature += event.signature
                return b""
            case PartStopped():
                return self._stop_part(event)
            case Finished():
                return self._open(event.choice) + self._finish(event.choice, event.finish)
            case UsageSeen():
                self._usage = event.usage
                return b""
            case Ended():
                return b""

    def _open(self, choice: int) -> bytes:
        """The role chunk, if the choice is new."""
        if choice in self._choices:
            return b""
        self._choices[choice] = _ChoiceState()
        return self._chunk(choice, {"role": "assistant", "content": "", "refusal": None})

    def _part(self, choice: int, part: int) -> _PartState:
        return self._choices[choice].parts[part]

    def _start_part(self, event: PartStarted) -> bytes:
        state = self._choices[event.choice]
        part = state.parts[event.part] = _PartState(event.kind, state.calls)
        state.refused |= event.kind == "refusal"
        if event.kind == "redacted_thinking":
            block = write_thinking(ThinkingPart(redacted=event.redacted))
            return self._chunk(event.choice, {"thinking_blocks": [block]})
        if event.kind != "tool_call":
            return b""
        state.calls += 1
        function = {"name": event.name, "arguments": ""}
        call = {"index": part.call, "id": event.id, "type": "function", "function": function}
        return self._chunk(event.choice, {"tool_calls": [call]})

    def _write_delta(self, event: PartDelta) -> bytes:
        part = self._choices[event.choice].parts[event.part]
        if part.kind == "text":
            if event.choice == 0:
                return self._text_head + _encode(event.text) + self._text_tail
            return self._chunk(event.choice, {"content": event.text})
        part.written = True
        match part.kind:
            case "thinking":
                part.text.append(event.text)
                return self._chunk(event.choice, {"reasoning_content": event.text})
            case "refusal":
                return self._chunk(event.choice, {"refusal": event.text})
            case _:
                return self._write_arguments(event.choice, part.call, event.text)

    def _write_arguments(self, choice: int, call: int, text: str) -> bytes:
        return self._chunk(choice, {"tool_calls": [{"index": call, "function": {"arguments": text}}]})

    def _stop_part(self, event: PartStopped) -> bytes:
        part = self._choices[event.choice].parts.pop(event.part)
        if part.kind == "tool_call" and not part.written:
            # Clients parse the arguments as JSON; nothing at all is none.
            return self._write_arguments(event.choice, part.call, "{}")
        if part.kind == "thinking" and part.signature:
            block = write_thinking(ThinkingPart("".join(part.text), part.signature))
            return self._chunk(event.choice, {"thinking_blocks": [block]})
        return b""

    def _finish(self, choice: int, finish: FinishReason) -> bytes:
        state = self._choices[choice]
        if state.finished:
            return b""
        state.finished = True
        return self._chunk(choice, {}, write_finish(finish, refused=state.refused))

    def _chunk(self, choice: int, delta: Mapping[str, Any], finish: str | None = None) -> bytes:
        row = {"index": choice, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._head + _encode(row) + self._tail
