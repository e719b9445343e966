"""What an unlocked vault needs now and then: expired secrets gone, records moved, keys retired, rows checked. Control plane."""

from __future__ import annotations

import logging
from datetime import datetime

from tokenhub.core.errors import TokenhubError
from vault.engine.errors import VaultLocked
from vault.opened import opened_vault
from vault.rotations import RESEAL_AT_ONCE, reseal_some, retire_data_keys
from vault.sealing import delete_expired
from vault.vault_manifest import RowsDiffer, check_if_due

log = logging.getLogger(__name__)


def tend_vault(now: datetime, *, limit: int = RESEAL_AT_ONCE) -> None:
    """One round, of bounded work; nothing while the vault is locked here. Every worker may call it, every few seconds.

    Without anything due it only reads. A step that fails is logged and does not keep the others from happening.
    """
    for step in (
        lambda: check_if_due(now),
        lambda: delete_expired(now=now),
        lambda: reseal_some(limit, now=now),
        lambda: retire_data_keys(now=now),
    ):
        if opened_vault.find() is None:
            return
        try:
            step()
        except VaultLocked:
            return
        except RowsDiffer:
            # The check has written it down; nothing is signed over it.
            continue
        except TokenhubError as error:
            log.error("the vault's rows are not looked after: %s", error.message)
