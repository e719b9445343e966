"""Opens credentials from the environment and mounted files, and holds them in memory only. Data plane; no Django."""

from __future__ import annotations

import os
import re
import stat
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenhub.core.errors import ServiceError
from tokenhub.core.specs import CredentialSpec

ENV_PREFIX = "TOKENHUB_CRED_"
KNOWN_ENV_NAMES = frozenset({"OPENAI_API_KEY", "ANTHROPIC_API_KEY", "VLLM_API_KEY"})
ENV_NAME_RULE = (
    f"Name an environment variable: {ENV_PREFIX} and then capital letters, digits or underscores, "
    f"or one of {', '.join(sorted(KNOWN_ENV_NAMES))}."
)
FILE_NAME_RULE = (
    "Name a file below the credentials directory by its relative path: letters, digits and . _ - in each part, "
    "no '..', no leading slash."
)
MAX_SECRET_BYTES = 16_384
_ENV_NAME = re.compile(rf"{ENV_PREFIX}[A-Z0-9_]+", re.ASCII)
_FILE_NAME = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*", re.ASCII)


class CredentialUnavailable(ServiceError):
    """A credential can't be opened here: its variable or file is missing, or holds what can't be a secret."""

    code = "credential_unavailable"
    status = 503
    retryable = True


def check_env_name(name: str) -> None:
    """Raises ValueError unless `name` is a variable that may hold a credential. The message never repeats it."""
    if name not in KNOWN_ENV_NAMES and _ENV_NAME.fullmatch(name) is None:
        raise ValueError(ENV_NAME_RULE)


def check_file_name(name: str) -> None:
    """Raises ValueError unless `name` is a relative path that stays below its directory. The message never repeats it."""
    parts = name.split("/")
    if _FILE_NAME.fullmatch(name) is None or "." in parts or ".." in parts:
        raise ValueError(FILE_NAME_RULE)


@dataclass(slots=True)
class _Opened:
    """A secret in memory: its value, when it is looked at again (monotonic seconds), and the file's mark."""

    value: str
    check_at: float
    mark: tuple[int, int, int] | None


class Keyring:
    """The secrets behind credential references, opened when first asked for.

    A file is looked at again at most every `recheck_seconds`, and read again when it changed (a rotated mount); one that
    vanished or broke meanwhile fails then. `clock` is monotonic seconds. Threads may share a keyring.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        credentials_dir: Path,
        *,
        recheck_seconds: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._environ = environ
        self._directory = credentials_dir
        self._recheck_seconds = recheck_seconds
        self._clock = clock
        self._opened: dict[tuple[str, str], _Opened] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Keyring({len(self._opened)} opened)"

    def get_secret(self, credential: CredentialSpec) -> str:
        """The secret's value, "" for the source `none`. Raises CredentialUnavailable, naming the reference only."""
        source = credential.source
        if source == "none":
            return ""
        opened = self._opened.get((source, credential.reference))
        if opened is not None and (opened.mark is None or self._clock() < opened.check_at):
            return opened.value
        with self._lock:
            return self._open(source, credential.reference)

    def list_values(self) -> tuple[str, ...]:
        """Every value opened so far, for a redactor. Never to be shown."""
        return tuple(opened.value for opened in tuple(self._opened.values()))

    def _open(self, source: str, reference: str) -> str:
        key = (source, reference)
        try:
            if source == "env":
                opened = _Opened(self._read_env(reference), 0.0, None)
            elif source == "vault":
                raise CredentialUnavailable(
                    "the credential is sealed in the vault, which the workers of this version do not open",
                    hint="use an environment variable or a mounted file as its source",
                )
            else:
                opened = self._read_file(reference, self._opened.get(key))
        except CredentialUnavailable:
            self._opened.pop(key, None)
            raise
        self._opened[key] = opened
        return opened.value

    def _read_env(self, name: str) -> str:
        try:
            check_env_name(name)
        except ValueError as error:
            raise CredentialUnavailable(
                "a credential's reference is not a variable that may hold one", hint=str(error)
            ) from None
        value = self._environ.get(name)
        if value is None:
            raise CredentialUnavailable(
                f"the environment variable {name} is not set",
                hint=f"set {name} and restart, or choose another source",
            )
        return _check_value(value, f"the environment variable {name}")

    def _read_file(self, name: str, before: _Opened | None) -> _Opened:
        path = self._locate(name)
        shown = f"the credential file {name}"
        try:
            # One descriptor for mark and content, so that a swap in between can't mix two files.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            with open(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                mark = (status.st_mtime_ns, status.st_ino, status.st_size)
                if before is not None and before.mark == mark:
                    return _Opened(before.value, self._clock() + self._recheck_seconds, mark)
                if not stat.S_ISREG(status.st_mode):
                    raise CredentialUnavailable(f"{shown} is not a regular file")
                content = file.read(MAX_SECRET_BYTES + 1)
        except OSError as error:
            raise CredentialUnavailable(
                f"{shown} can't be read: {os.strerror(error.errno or 0)}",
                hint="mount it below the credentials directory",
            ) from error
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            # `from None`: the decoding error carries the bytes.
            raise CredentialUnavailable(f"{shown} is not UTF-8 text") from None
        return _Opened(_check_value(text, shown), self._clock() + self._recheck_seconds, mark)

    def _locate(self, name: str) -> Path:
        """The real path, after symbolic links, of a file below the credentials directory."""
        try:
            check_file_name(name)
        except ValueError as error:
            raise CredentialUnavailable(
                "a credential's reference is not a file's name", hint=str(error)
            ) from None
        path = Path(os.path.realpath(self._directory / name))
        if not path.is_relative_to(os.path.realpath(self._directory)):
            raise CredentialUnavailable(f"the credential file {name} leads out of the credentials directory")
        return path


def _check_value(text: str, shown: str) -> str:
    """The value without one trailing line break. Raises CredentialUnavailable for what can't stand in a header."""
    value = text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text
    if not value:
        raise CredentialUnavailable(f"{shown} is empty")
    if len(value) > MAX_SECRET_BYTES:
        raise CredentialUnavailable(f"{shown} is longer than {MAX_SECRET_BYTES} bytes")
    if not all("\x20" <= character <= "\x7e" for character in value) or value != value.strip():
        raise CredentialUnavailable(f"{shown} holds control characters, outer spaces or other than ASCII")
    return value
