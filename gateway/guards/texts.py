"""Where the texts of requests and answers stand, whatever their format: every string that is content. Data plane; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from gateway.json_places import Path

IN_REQUESTS: Final = ("system", "messages", "prompt", "suffix", "input")
IN_ANSWERS: Final = ("choices", "content")

_NAMES_AND_NUMBERS: Final = frozenset(
    {
        "cache_control",
        "file_id",
        "finish_reason",
        "format",
        "id",
        "image_url",
        "index",
        "logprobs",
        "media_type",
        "model",
        "role",
        "signature",
        "stop_reason",
        "tool_call_id",
        "tool_use_id",
        "type",
        "url",
    }
)
"""Members that are no content: who, what, which. `name` is one too, but as an argument of a tool it may be anybody's."""

_BYTES: Final = frozenset({"data", "file_data"})
"""Members that hold encoded bytes, unless the object says that it holds text."""

_THOUGHTS: Final = frozenset({"thinking", "redacted_thinking"})


def list_texts(
    body: Mapping[str, Any], members: tuple[str, ...], *, thoughts: bool
) -> Iterator[tuple[Path, str]]:
    """The texts of these members, each with its path. Without `thoughts`, signed ones are left as they are: a changed one would be
    refused."""
    for member in members:
        if member in body:
            yield from _walk(body[member], (member,), thoughts, arguments=False)


def _walk(value: Any, path: Path, thoughts: bool, *, arguments: bool) -> Iterator[tuple[Path, str]]:
    if isinstance(value, str):
        if value:
            yield path, value
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _walk(item, (*path, number), thoughts, arguments=arguments)
    elif isinstance(value, dict):
        kind = value.get("type")
        if not thoughts and kind in _THOUGHTS and not arguments:
            return
        for name, item in value.items():
            if not arguments and (name in _NAMES_AND_NUMBERS or name == "name"):
                continue
            if not arguments and name in _BYTES and kind != "text":
                continue
            # A tool's arguments are the model's and the tool's own: any name may stand there.
            yield from _walk(
                item, (*path, name), thoughts, arguments=arguments or (name == "input" and kind == "tool_use")
            )


def put_text(body: Any, path: Path, text: str) -> None:
    """Sets one text of a parsed body."""
    for step in path[:-1]:
        body = body[step]
    body[path[-1]] = text
