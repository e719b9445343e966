"""Where a sealed secret belongs: the additional data of a row of `vault_sealedsecret`. Both planes; pure.

Whoever opens one passes what the provider is now (its kind, the endpoint's origin, its adapter's auth header), never what
the row says: a key that was entered for another origin or header then does not open.
"""

from __future__ import annotations

from typing import Final

from vault.engine.records import Place

TABLE: Final = "vault_sealedsecret"
FIELD: Final = "record"


def place_of_secret(
    vault_id: str, row_id: str, row_version: int, *, provider_kind: str, origin: str, auth_header: str
) -> Place:
    """The place of the row's record. Raises ValueError for an origin or header that can't be."""
    return Place(
        vault_id=vault_id,
        table=TABLE,
        row_id=row_id,
        row_version=row_version,
        field=FIELD,
        provider_kind=provider_kind,
        origin=origin,
        auth_header=auth_header,
    )
