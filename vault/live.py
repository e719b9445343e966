"""Takes the secrets that a keyring holds open out of text, for `tokenhub.redaction`. Both planes; no Django."""

from __future__ import annotations

from collections.abc import Callable

from tokenhub.redaction import REDACTED, mask_values
from vault.engine.buffers import SecretBuffer
from vault.engine.errors import VaultLocked
from vault.keyring import Keyring

_MARK = REDACTED.encode()


def masker_of(keyring: Keyring) -> Callable[[str], str]:
    """What `tokenhub.redaction.watch` takes. Sealed secrets are searched for in their buffers: no copy of one is made."""

    def mask(text: str) -> str:
        text = mask_values(text, keyring.list_values())
        held = keyring.list_buffers()
        return mask_buffers(text, held) if held else text

    return mask


def mask_buffers(text: str, secrets: list[SecretBuffer]) -> str:
    """The text without the contents of these buffers, as they are. A buffer that is wiped meanwhile is passed over."""
    data = text.encode("utf-8", "surrogatepass")
    found = False
    for secret in secrets:
        try:
            with secret.exposed() as view:
                if len(view) and data.find(view) >= 0:
                    data, found = data.replace(view, _MARK), True
        except VaultLocked:
            continue
    return data.decode("utf-8", "surrogatepass") if found else text
