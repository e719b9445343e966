"""Reads members of a request body by type, and names the JSON path of what is wrong. Data plane."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tokenhub.core.chat import Losses
from tokenhub.core.errors import InvalidRequest

_NAMES = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
}


def refused(path: str, message: str) -> InvalidRequest:
    """The error for the member at `path`, to be raised."""
    return InvalidRequest(f"{path}: {message}", param=path)


class Fields:
    """An object of the body and its path. `null` means: not there. Every member that was asked for counts as read."""

    __slots__ = ("_read", "path", "values")

    def __init__(self, values: Any, path: str) -> None:
        if not isinstance(values, dict):
            raise refused(path, f"must be an object, not {_describe(values)}")
        self.values: Mapping[str, Any] = values
        self.path = path
        self._read: set[str] = set()

    def at(self, name: str) -> str:
        """The path of a member."""
        return f"{self.path}.{name}" if self.path else name

    def find(self, name: str) -> Any:
        """The member, whatever its type; None where it is not there."""
        self._read.add(name)
        return self.values.get(name)

    def text(self, name: str) -> str:
        """A string; "" where it is not there."""
        return str(self._typed(name, str, ""))

    def need_text(self, name: str) -> str:
        """A string that must be there and not be empty."""
        if not (value := self.text(name)):
            raise refused(self.at(name), "must be a string that is not empty")
        return value

    def flag(self, name: str) -> bool | None:
        """A boolean."""
        value: bool | None = self._typed(name, bool, None)
        return value

    def whole(self, name: str, least: int | None = None) -> int | None:
        """An integer of at least `least`; `8.0` is one, `true` is none."""
        value = self.find(name)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise refused(self.at(name), f"must be an integer, not {_describe(value)}")
        if least is not None and value < least:
            raise refused(self.at(name), f"must be at least {least}, not {value}")
        return value

    def number(self, name: str) -> float | None:
        """A number, an integer staying one."""
        value = self.find(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise refused(self.at(name), f"must be a number, not {_describe(value)}")
        return value

    def items(self, name: str) -> list[Any]:
        """An array; empty where it is not there."""
        value: list[Any] = self._typed(name, list, [])
        return value

    def objects(self, name: str) -> Iterator[Fields]:
        """The objects of an array."""
        for number, item in enumerate(self.items(name)):
            yield Fields(item, f"{self.at(name)}[{number}]")

    def object(self, name: str) -> Fields | None:
        """An object; None where it is not there."""
        value = self.find(name)
        return None if value is None else Fields(value, self.at(name))

    def need_object(self, name: str) -> Fields:
        """An object that must be there."""
        return Fields(self.find(name), self.at(name))

    def name_unread(self, losses: Losses) -> None:
        """Names every member that nothing asked for as dropped."""
        for name, value in self.values.items():
            if name not in self._read and value is not None:
                losses.dropped(self.at(name))

    def _typed(self, name: str, kind: type, default: Any) -> Any:
        value = self.find(name)
        if value is None:
            return default
        if type(value) is not kind:
            raise refused(self.at(name), f"must be {_NAMES[kind]}, not {_describe(value)}")
        return value


def _describe(value: Any) -> str:
    return "null" if value is None else _NAMES.get(type(value), type(value).__name__)


def check_common(body: Mapping[str, Any]) -> Fields:
    """What every OpenAI-shaped request needs: a model, and flags of the right type. Raises InvalidRequest."""
    fields = Fields(body, "")
    fields.need_text("model")
    fields.flag("stream")
    if (options := fields.object("stream_options")) is not None:
        options.flag("include_usage")
    return fields
