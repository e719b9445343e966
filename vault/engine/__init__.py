"""The vault's cryptography: slots, data keys, records, the manifest, grants. Pure: no Django, no database, no network.

`docs/vault.md` has the formats byte for byte. What builds on this uses, from the bottom up:

    buffers     SecretBuffer: memory that can be overwritten
    sealing     the one sealed format ("THV1") and its one error
    records     Place and DataKeys: sealing a provider's secret to the place and the origin that it belongs to
    hierarchy   Root and what it wraps or derives: data keys, subkeys, the root check, fingerprints
    slots       the ways to ROOT: password, key file, environment, recovery key, KMS
    passwords   Argon2id's bounds; how strong a password is; phrases
    recovery    the printed recovery key
    kms         the interface of a key management service, a software stand-in; aws_kms is AWS's shape
    manifest    a keyed MAC over all rows
    grants      how an unlocked worker gives ROOT to a locked one
    rotation    new password, new data key, new root
"""
