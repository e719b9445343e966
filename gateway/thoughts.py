"""Takes a model's earlier thoughts out of a request whose provider refuses them. Data plane; pure.

Thoughts carry signatures that only the provider verifies that made them. A conversation that moved to another provider, since its
own failed, brings the wrong ones with it; so it does when it moves back. The text and the tools' calls and results are all there
without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from gateway.body import Body
from tokenhub.core.chat import ChatCall, ThinkingPart, ToolCallPart

LOSS: Final = "dropped:messages.thinking"
LOSS_OF_THINKING: Final = "changed:thinking"
"""In the middle of tool calls a provider wants the thoughts that led to them, or none in this answer."""

_THOUGHTS: Final = frozenset({"thinking", "redacted_thinking"})
_NEEDS_THINKING: Final = "clear_thinking"


def strip_body(body: Body) -> tuple[Body, tuple[str, ...]] | None:
    """A request of Anthropic's messages without thoughts, and what that loses; None where there are none."""
    data, messages = body.data, body.data.get("messages")
    kept: list[Any] = []
    changed = False
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list) and any(_is_thought(block) for block in content):
            changed = True
            left = [block for block in content if not _is_thought(block)]
            if left:  # Of a message that was nothing but thoughts, nothing is left to say.
                kept.append({**message, "content": left})
        else:
            kept.append(message)
    if not changed:
        return None
    edits: dict[str, Any] = {"messages": kept}
    losses: tuple[str, ...] = (LOSS,)
    if _thinks(data) and _is_within_tools(kept):
        losses = (LOSS, LOSS_OF_THINKING)
        edits["thinking"] = None
        if (edited := _without_clearing(data.get("context_management"))) is not None:
            edits["context_management"] = edited
    left_data = {name: value for name, value in {**data, **edits}.items() if value is not None}
    return Body(body.edited(edits), left_data), losses


def _is_thought(block: Any) -> bool:
    return isinstance(block, dict) and block.get("type") in _THOUGHTS


def _thinks(data: Mapping[str, Any]) -> bool:
    thinking = data.get("thinking")
    return isinstance(thinking, dict) and thinking.get("type") != "disabled"


def _is_within_tools(messages: list[Any]) -> bool:
    """Whether the answer that is asked for goes on with a turn that has called tools."""
    for message in reversed(messages):
        if isinstance(message, dict) and message.get("role") == "assistant":
            content = message.get("content")
            return isinstance(content, list) and any(
                isinstance(block, dict) and block.get("type") == "tool_use" for block in content
            )
    return False


def _without_clearing(management: Any) -> dict[str, Any] | None:
    """Context management without the edits that need thinking; None where it has none of them."""
    edits = management.get("edits") if isinstance(management, dict) else None
    if not isinstance(edits, list):
        return None
    left = [
        edit
        for edit in edits
        if not (isinstance(edit, dict) and str(edit.get("type", "")).startswith(_NEEDS_THINKING))
    ]
    return {**management, "edits": left} if len(left) < len(edits) else None


def strip_call(call: ChatCall) -> tuple[ChatCall, tuple[str, ...]] | None:
    """The same for a request that is translated."""
    if not any(isinstance(part, ThinkingPart) for message in call.messages for part in message.parts):
        return None
    messages = []
    for message in call.messages:
        parts = tuple(part for part in message.parts if not isinstance(part, ThinkingPart))
        if parts or not message.parts:
            messages.append(replace(message, parts=parts))
    last = next((message for message in reversed(messages) if message.role == "assistant"), None)
    within = last is not None and any(isinstance(part, ToolCallPart) for part in last.parts)
    if within and call.reasoning is not None:
        return replace(call, messages=tuple(messages), reasoning=None), (LOSS, LOSS_OF_THINKING)
    return replace(call, messages=tuple(messages)), (LOSS,)
