"""Fetches the data keys that a new configuration needs before it comes into force, so that none of its secrets is refused.

A secret that was entered right after a data key's rotation is sealed with a key that other workers only learn of at their
next look at the vault, and the configuration may be faster. Control plane.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from tokenhub.core.specs import Snapshot
from vault.engine.errors import DoesNotOpen, VaultLocked
from vault.engine.sealing import read_key_version
from vault.opened import VaultHolder, opened_vault

LONGEST_WAIT = 3.0
"""Seconds for which a configuration waits where the root was rotated too, which a peer has to grant first."""
_PAUSE = 0.1

log = logging.getLogger(__name__)


def fetch_keys(
    snapshot: Snapshot,
    *,
    holder: VaultHolder = opened_vault,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Whether every data key of the snapshot's sealed secrets is held; waits for it at most LONGEST_WAIT seconds.

    At once where the vault is locked here, or nothing is missing. Raises DatabaseError.
    """
    needed = list_key_versions(snapshot)
    until = clock() + LONGEST_WAIT
    while (opened := holder.find()) is not None:
        if needed <= set(opened.keys.versions):
            return True
        try:
            opened = holder.refresh()
        except (VaultLocked, DoesNotOpen):
            return False
        if needed <= set(opened.keys.versions):
            return True
        if clock() >= until:
            log.warning("a data key of the new configuration has not arrived; its secrets wait for it")
            return False
        sleep(_PAUSE)
    return False


def list_key_versions(snapshot: Snapshot) -> set[int]:
    """The data keys that seal the snapshot's secrets; what can't be read is left out."""
    found = set[int]()
    for provider in snapshot.providers:
        for credential in provider.credentials:
            for sealed in credential.sealed:
                try:
                    found.add(read_key_version(sealed.record))
                except DoesNotOpen:
                    continue
    return found
