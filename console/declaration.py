"""One run over config.yaml: its entries with their lines, and what was created or changed so far. Control plane."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models

from tokenhub.configfile import ConfigFile, KeyPath
from tokenhub.control.actors import Actor
from tokenhub.core.errors import SettingInvalid, TokenhubError
from vault.keyring import Keyring

Entry = Mapping[str, Any]


@dataclass(slots=True)
class Declaration:
    """One run over a file: who declares, where secrets are opened, and the lines of the difference so far."""

    config: ConfigFile
    actor: Actor
    keyring: Keyring
    now: datetime
    difference: list[str] = field(default_factory=list)

    def entries(self, section: str, needed: tuple[str, ...]) -> Iterator[tuple[KeyPath, Entry]]:
        """The entries of a section with their places. Raises SettingInvalid for one that is no mapping or lacks a key."""
        yield from self.items(self.config.data.get(section), (section,), needed)

    def items(self, listed: Any, at: KeyPath, needed: tuple[str, ...]) -> Iterator[tuple[KeyPath, Entry]]:
        """As `entries`, of any list in the file."""
        if listed is None:
            return
        if not isinstance(listed, list):
            raise self.wrong(at, f"{at[-1]} must be a list")
        for index, entry in enumerate(listed):
            place = (*at, index)
            if not isinstance(entry, dict):
                raise self.wrong(place, f"an entry of {at[-1]} must be a mapping")
            missing = [name for name in needed if entry.get(name) in (None, "")]
            if missing:
                raise self.wrong(place, f"an entry of {at[-1]} needs {missing[0]!r}")
            yield place, entry

    def wrong(self, at: KeyPath, problem: str) -> SettingInvalid:
        """An error that names the line."""
        return SettingInvalid(f"{self.config.place(at)}: {problem}")

    @contextmanager
    def at(self, place: KeyPath) -> Iterator[None]:
        """Gives the errors of actions the line of the entry that they are about."""
        try:
            yield
        except SettingInvalid:
            raise
        except TokenhubError as error:
            raise self.wrong(place, f"{error.message}{f' ({error.hint})' if error.hint else ''}") from error
        except ValidationError as error:
            raise self.wrong(place, " ".join(error.messages)) from error

    def put(
        self,
        label: str,
        row: models.Model | None,
        wanted: Entry,
        create: Callable[..., Any],
        update: Callable[..., Any],
    ) -> Any:
        """Creates the row, or changes what differs in it, and notes that."""
        if row is None:
            self.difference.append(f"+ {label}")
            return create(self.actor, **wanted)
        changes = differing(row, wanted)
        if changes:
            shown = ", ".join(
                f"{name}: {getattr(row, name, None)!r} → {value!r}" for name, value in changes.items()
            )
            self.difference.append(f"~ {label}: {shown}")
            update(self.actor, row, **changes)
        return row


def without(entry: Entry, *names: str) -> dict[str, Any]:
    """The entry without these keys."""
    return {name: value for name, value in entry.items() if name not in names}


def differing(row: models.Model, wanted: Entry) -> dict[str, Any]:
    """What of `wanted` the row does not have yet, in the row's own types, so that `"5"` and 5 are the same."""
    changes = {}
    for name, value in wanted.items():
        column = next((item for item in row._meta.concrete_fields if item.name == name), None)
        # An unknown name goes on to the action, which refuses it by name.
        if column is None or column.is_relation:
            same = column is not None and getattr(row, name) == value
        else:
            same = column.to_python(value) == getattr(row, name)
        if not same:
            changes[name] = value
    return changes
