"""Opens credentials: sealed in the vault, from the environment, from mounted files. In memory only. Data plane; no Django.

A sealed secret lies in a buffer that is overwritten at a lock, a change, or its end; each request gets bytes of its own,
which are overwritten when the request has no use for them any more. Secrets of variables and files are kept as text; they
are in the process's environment and on the disk anyway.
"""

from __future__ import annotations

import math
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

from tokenhub.core.errors import ServiceError
from tokenhub.core.secret_bytes import Secret, SecretBytes
from tokenhub.core.specs import CredentialSpec, SealedSpec, Snapshot
from vault.engine.buffers import SecretBuffer
from vault.engine.errors import DoesNotOpen, VaultLocked
from vault.engine.origins import origin_of
from vault.engine.records import DataKeys
from vault.places import place_of_secret

ENV_PREFIX = "TOKENHUB_CRED_"
ORIGIN_SUFFIX = "__ORIGIN"
"""Ends the name of the variable that says where another one's secret may go: one origin, or several with commas."""
ORIGIN_FILE_SUFFIX = ".origin"
"""Ends the name of the file that says the same of the file beside it."""
KNOWN_ORIGINS = {
    "OPENAI_API_KEY": "https://api.openai.com",
    "ANTHROPIC_API_KEY": "https://api.anthropic.com",
    "VLLM_API_KEY": "http://localhost:8000",
}
"""Where the secrets of the well-known variables go unless `NAME__ORIGIN` says otherwise: their adapters' default origins."""
BASE_URLS = {"VLLM_API_KEY": "VLLM_BASE_URL"}
"""The variable that names a server of one's own, which the well-known one's secret goes to."""
KNOWN_ENV_NAMES = frozenset(KNOWN_ORIGINS)
ENV_NAME_RULE = (
    f"Name an environment variable: {ENV_PREFIX} and then capital letters, digits or underscores, "
    f"or one of {', '.join(sorted(KNOWN_ENV_NAMES))}."
)
FILE_NAME_RULE = (
    "Name a file below the credentials directory by its relative path: letters, digits and . _ - in each part, "
    f"no '..', no leading slash, not ending in {ORIGIN_FILE_SUFFIX}."
)
MAX_SECRET_BYTES = 16_384
MAX_UNSEALED = 4096
"""Sealed secrets that are held open at once; beyond that the one opened first is closed."""
_ENV_NAME = re.compile(rf"{ENV_PREFIX}[A-Z0-9_]+", re.ASCII)
_Mark = tuple[int, int, int]
_FILE_NAME = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*", re.ASCII)


class CredentialUnavailable(ServiceError):
    """A credential can't be opened here: its variable or file is missing, or holds what can't be a secret."""

    code = "credential_unavailable"
    status = 503
    retryable = True


def check_env_name(name: str) -> None:
    """Raises ValueError unless `name` is a variable that may hold a credential. The message never repeats it."""
    if name not in KNOWN_ENV_NAMES and (_ENV_NAME.fullmatch(name) is None or name.endswith(ORIGIN_SUFFIX)):
        raise ValueError(ENV_NAME_RULE)


def check_file_name(name: str) -> None:
    """Raises ValueError unless `name` is a relative path that stays below its directory. The message never repeats it."""
    parts = name.split("/")
    bad = "." in parts or ".." in parts or name.endswith(ORIGIN_FILE_SUFFIX)
    if _FILE_NAME.fullmatch(name) is None or bad:
        raise ValueError(FILE_NAME_RULE)


@dataclass(slots=True)
class _Opened:
    """A secret in memory: its value, where it may go, when it is looked at again (monotonic seconds), the file's mark."""

    value: str
    origins: frozenset[str]
    check_at: float
    mark: _Mark | None


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a secret is about to be sent: an endpoint's origin, the provider's kind, and the header that will carry it."""

    origin: str
    provider_kind: str
    auth_header: str


@dataclass(slots=True)
class _Unsealed:
    """A sealed secret, opened, and what it was opened from and for."""

    sealed: SealedSpec
    destination: Destination
    value: SecretBuffer


VaultState = Literal["none", "locked", "unlocked"]


class Keyring:
    """The secrets behind credential references, opened when first asked for, each for the origins it is bound to.

    A file is looked at again at most every `recheck_seconds`, and read again when it changed (a rotated mount); one that
    vanished or broke meanwhile fails then. `clock` is monotonic seconds. Threads may share a keyring.

    Sealed secrets open between `unlock` and `lock`, or until `coast_until`'s moment has passed. `vault_state` and
    `vault_reason` are told to operators.
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
        self._data_keys: DataKeys | None = None
        self._unsealed: dict[str, _Unsealed] = {}
        self._broken: dict[str, tuple[SealedSpec, Destination, str]] = {}
        self._good_until = math.inf
        self.last_used: float | None = None
        """When a sealed secret was last asked for and given, by the clock; None: not since the start."""
        self.vault_state: VaultState = "none"
        self.vault_reason = ""

    def find_variable(self, name: str) -> str:
        """An environment variable that holds a secret of another kind than a provider's key, "" where it is not set."""
        return self._environ.get(name, "")

    def __repr__(self) -> str:
        return f"Keyring({len(self._opened)} opened)"

    def get_secret(self, credential: CredentialSpec, destination: Destination) -> Secret:
        """The secret's value, to be sent there and nowhere else: a sealed one as SecretBytes, "" for the source `none`.

        Raises CredentialUnavailable, naming the reference only; also where the secret is bound to another origin, or to
        none. For sealed ones VaultLocked, and DoesNotOpen for what was altered or belongs elsewhere.
        """
        source = credential.source
        if source == "none":
            return ""
        if source == "vault":
            return self._get_sealed(credential, destination)
        origin = destination.origin
        opened = self._opened.get((source, credential.reference))
        if opened is None or (opened.mark is not None and self._clock() >= opened.check_at):
            with self._lock:
                opened = self._open(source, credential.reference)
        if _spell(origin) not in opened.origins:
            raise _not_bound(source, credential.reference, origin, opened.origins)
        return opened.value

    def get_unbound(self, credential: CredentialSpec) -> str:
        """The value of what is sent nowhere: an API key that a declaration refers to. Raises CredentialUnavailable."""
        if credential.source == "env":
            return self._read_env(credential.reference)
        return self._read_file(credential.reference, None)[0]

    def list_values(self) -> tuple[str, ...]:
        """Every value opened so far from variables and files, for a redactor. Never to be shown."""
        return tuple(opened.value for opened in tuple(self._opened.values()))

    def list_buffers(self) -> list[SecretBuffer]:
        """The buffers of every sealed secret that is held open, for a redactor; another thread may wipe them meanwhile."""
        return [opened.value for opened in tuple(self._unsealed.values())]

    def unlock(self, data_keys: DataKeys) -> None:
        """Sealed secrets open from now on with these keys, which stay their holder's to wipe."""
        with self._lock:
            if self._data_keys is not data_keys:
                self._close_all()
            self._data_keys = data_keys
            self._broken.clear()

    def lock(self) -> None:
        """Overwrites every sealed secret that was opened; none opens until `unlock`."""
        with self._lock:
            self._data_keys = None
            self._close_all()

    def holds(self, data_keys: DataKeys | None) -> bool:
        """Whether these are the keys that it opens with; for None, whether it has none."""
        return self._data_keys is data_keys

    def coast_until(self, moment: float) -> None:
        """Without another call sealed secrets are refused after that moment (monotonic seconds), whatever blocks the caller."""
        self._good_until = moment

    def keep_only(self, snapshot: Snapshot) -> None:
        """Overwrites what was opened of secrets that a new snapshot no longer has."""
        kept = {
            sealed.id
            for provider in snapshot.providers
            for credential in provider.credentials
            for sealed in credential.sealed
        }
        with self._lock:
            for row_id in self._unsealed.keys() - kept:
                self._unsealed.pop(row_id).value.wipe()
            for row_id in self._broken.keys() - kept:
                del self._broken[row_id]

    def list_broken(self) -> tuple[str, ...]:
        """The names of credentials of which a sealed secret did not open here, though the vault is unlocked."""
        return tuple(sorted({name for _, _, name in tuple(self._broken.values())}))

    def _get_sealed(self, credential: CredentialSpec, destination: Destination) -> SecretBytes:
        sealed = _find_sealed(credential, _spell(destination.origin))
        if self._clock() > self._good_until:
            raise VaultLocked
        found = self._unsealed.get(sealed.id)
        if found is None or found.sealed != sealed or found.destination != destination:
            with self._lock:
                found = self._unseal(credential.name, sealed, destination, found)
        with found.value.exposed() as view:
            secret = SecretBytes.of((view,))
        self.last_used = self._clock()
        return secret

    def _unseal(
        self, name: str, sealed: SealedSpec, destination: Destination, before: _Unsealed | None
    ) -> _Unsealed:
        """Opens it for the place where it is about to go, whatever the row says of itself."""
        keys = self._data_keys
        if keys is None:
            raise VaultLocked
        tried = self._broken.get(sealed.id)
        if tried is not None and tried[:2] == (sealed, destination):
            raise DoesNotOpen("authentication")
        try:
            place = place_of_secret(
                keys.vault_id,
                sealed.id,
                sealed.row_version,
                provider_kind=destination.provider_kind,
                origin=_spell(destination.origin),
                auth_header=destination.auth_header,
            )
            value = keys.open(place, sealed.record)
        except (DoesNotOpen, ValueError) as error:
            if isinstance(error, DoesNotOpen) and error.reason == "key version":
                return _bridge(sealed, destination, before)
            while len(self._broken) >= MAX_UNSEALED:
                del self._broken[next(iter(self._broken))]
            self._broken[sealed.id] = (sealed, destination, name)
            raise DoesNotOpen("authentication") from None
        self._broken.pop(sealed.id, None)
        stale = self._unsealed.pop(sealed.id, None)
        if stale is not None:
            stale.value.wipe()
        while len(self._unsealed) >= MAX_UNSEALED:
            self._unsealed.pop(next(iter(self._unsealed))).value.wipe()
        opened = self._unsealed[sealed.id] = _Unsealed(sealed, destination, value)
        return opened

    def _close_all(self) -> None:
        """With the lock held."""
        unsealed, self._unsealed = self._unsealed, {}
        for opened in unsealed.values():
            opened.value.wipe()
        self._broken.clear()

    def _open(self, source: str, reference: str) -> _Opened:
        key = (source, reference)
        try:
            if source == "env":
                opened = _Opened(self._read_env(reference), self._read_env_origins(reference), 0.0, None)
            else:
                value, mark = self._read_file(reference, self._opened.get(key))
                check_at = self._clock() + self._recheck_seconds
                opened = _Opened(value, self._read_file_origins(reference), check_at, mark)
        except CredentialUnavailable:
            self._opened.pop(key, None)
            raise
        self._opened[key] = opened
        return opened

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

    def _read_env_origins(self, name: str) -> frozenset[str]:
        variable = name + ORIGIN_SUFFIX
        text = self._environ.get(variable, "")
        if not text and name in KNOWN_ORIGINS:
            variable = BASE_URLS.get(name, name)
            text = (name in BASE_URLS and self._environ.get(variable, "")) or KNOWN_ORIGINS[name]
        return _parse_origins(text, f"the environment variable {variable}")

    def _read_file(self, name: str, before: _Opened | None) -> tuple[str, _Mark]:
        shown = f"the credential file {name}"
        try:
            check_file_name(name)
        except ValueError as error:
            raise CredentialUnavailable(
                "a credential's reference is not a file's name", hint=str(error)
            ) from None
        try:
            content, mark = self._read_below(name, shown, None if before is None else before.mark)
        except OSError as error:
            raise CredentialUnavailable(
                f"{shown} can't be read: {os.strerror(error.errno or 0)}",
                hint="mount it below the credentials directory",
            ) from error
        if content is None and before is not None:
            return before.value, mark
        return _check_value(_decode(content or b"", shown), shown), mark

    def _read_file_origins(self, name: str) -> frozenset[str]:
        """What the file beside it says; none without one."""
        shown = f"the file {name}{ORIGIN_FILE_SUFFIX}"
        try:
            content, _ = self._read_below(name + ORIGIN_FILE_SUFFIX, shown, None)
        except FileNotFoundError:
            return frozenset()
        except OSError as error:
            raise CredentialUnavailable(f"{shown} can't be read: {os.strerror(error.errno or 0)}") from error
        return _parse_origins(_decode(content or b"", shown), shown)

    def _read_below(self, name: str, shown: str, before: _Mark | None) -> tuple[bytes | None, _Mark]:
        """A file's content and mark; None for the content where the mark is as before. Raises OSError."""
        path = self._locate(name)
        # One descriptor for mark and content, so that a swap in between can't mix two files.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            mark = (status.st_mtime_ns, status.st_ino, status.st_size)
            if mark == before:
                return None, mark
            if not stat.S_ISREG(status.st_mode):
                raise CredentialUnavailable(f"{shown} is not a regular file")
            return file.read(MAX_SECRET_BYTES + 1), mark

    def _locate(self, name: str) -> Path:
        """The real path, after symbolic links, of a file below the credentials directory."""
        path = Path(os.path.realpath(self._directory / name))
        if not path.is_relative_to(os.path.realpath(self._directory)):
            raise CredentialUnavailable(f"the credential file {name} leads out of the credentials directory")
        return path


def list_older(credential: CredentialSpec, origin: str) -> tuple[CredentialSpec, ...]:
    """The credential's earlier secrets for an origin that are still good beside the newest, as credentials of weight 0.

    They are for when the newest was refused: a replacement's overlap. Their ids are the credential's, `@`, the version.
    """
    spelled = _spell(origin)
    rows = [sealed for sealed in credential.sealed if sealed.origin == spelled]
    return tuple(
        replace(credential, id=f"{credential.id}@{row.version}", version=row.version, weight=0, sealed=(row,))
        for row in rows[1:]
    )


def _find_sealed(credential: CredentialSpec, origin: str) -> SealedSpec:
    """The newest secret for that origin."""
    for sealed in credential.sealed:
        if sealed.origin == origin:
            return sealed
    raise CredentialUnavailable(
        f"the sealed key {credential.name} was not entered for this endpoint",
        hint=f"enter it again: a sealed key goes only where its provider was when it was entered, not to {origin}",
    )


def _bridge(sealed: SealedSpec, destination: Destination, before: _Unsealed | None) -> _Unsealed:
    """What serves until a data key that was just made arrives here: the same secret as it was opened before, moved since."""
    if before is not None and (before.sealed.version, before.destination) == (sealed.version, destination):
        return before
    raise CredentialUnavailable(
        "the vault's newest data key has not arrived in this worker yet", retry_after=1.0
    )


@lru_cache(maxsize=4096)
def _spell(origin: str) -> str:
    """An endpoint's origin in the one spelling; "" for one that no secret can be bound to (a name outside of ASCII)."""
    try:
        return origin_of(origin)
    except ValueError:
        return ""


def _parse_origins(text: str, shown: str) -> frozenset[str]:
    """One origin or several with commas. Raises CredentialUnavailable for what is none."""
    try:
        return frozenset(origin_of(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise CredentialUnavailable(
            f"{shown} holds something that is no origin",
            hint=f"{error}; write https://api.example.com, several with commas",
        ) from None


def _not_bound(source: str, reference: str, origin: str, origins: frozenset[str]) -> CredentialUnavailable:
    """The refusal that names what to set. The endpoint's origin is in the hint only, which callers don't see."""
    if source == "env":
        what, where = f"the environment variable {reference}", reference + ORIGIN_SUFFIX
        hint = f"set {where} to {origin} (several with commas) and restart"
    else:
        what, where = f"the credential file {reference}", f"the file {reference}{ORIGIN_FILE_SUFFIX}"
        hint = f"write {origin} into {where} beside it (several with commas)"
    why = "does not name this endpoint's origin" if origins else "is missing or empty"
    return CredentialUnavailable(f"{what} may not be sent here: {where} {why}", hint=hint)


def _decode(content: bytes, shown: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        # `from None`: the decoding error carries the bytes.
        raise CredentialUnavailable(f"{shown} is not UTF-8 text") from None


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
