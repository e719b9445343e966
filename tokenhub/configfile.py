"""Reads config/config.yaml: plain data, and the line of each key for messages. Both planes; no Django."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tokenhub.core.errors import SettingInvalid

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """One parsed file: its path, its data (an empty mapping where there is no file), and the line of each key path."""

    path: Path
    data: dict[str, Any]
    lines: dict[KeyPath, int]

    def place(self, key_path: KeyPath = ()) -> str:
        """`path:line` of a key, or of the nearest one above it that has a line."""
        while key_path and key_path not in self.lines:
            key_path = key_path[:-1]
        line = self.lines.get(key_path)
        return f"{self.path}:{line}" if line else str(self.path)


def read_config_file(path: Path, *, required: bool) -> ConfigFile:
    """The file's content. Raises SettingInvalid: not there though required, unreadable, no YAML mapping, or a key twice."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if required:
            raise SettingInvalid(f"TOKENHUB_CONFIG (environment): there is no file {path}") from None
        return ConfigFile(path, {}, {})
    except (OSError, UnicodeDecodeError) as error:
        raise SettingInvalid(f"{path}: can't be read: {error}") from error
    return parse_config(text, path)


def parse_config(text: str, path: Path) -> ConfigFile:
    """As `read_config_file`, from text."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise SettingInvalid(f"{place}: no valid YAML: {getattr(error, 'problem', error)}") from error
    if node is None:
        return ConfigFile(path, {}, {})
    if not isinstance(node, yaml.MappingNode):
        raise SettingInvalid(f"{path}:{node.start_mark.line + 1}: the file must be a mapping of sections")
    lines: dict[KeyPath, int] = {}
    _walk(node, (), lines, path)
    data = yaml.safe_load(text)
    return ConfigFile(path, data, lines)


def _walk(node: yaml.Node, at: KeyPath, lines: dict[KeyPath, int], path: Path) -> None:
    """Notes the line of each key; refuses what a reader would take for something else: a key twice, a key that is no text."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag != "tag:yaml.org,2002:str":
                raise SettingInvalid(f"{path}:{line}: the key {key.value!r} must be text; put it in quotes")
            if (*at, key.value) in lines:
                raise SettingInvalid(f"{path}:{line}: the key {key.value!r} is there twice")
            lines[(*at, key.value)] = line
            _walk(value, (*at, key.value), lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*at, index)] = item.start_mark.line + 1
            _walk(item, (*at, index), lines, path)
