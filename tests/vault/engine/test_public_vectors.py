"""The functions below the engine, called as the engine calls them, against RFCs' and Wycheproof's vectors.

The RFCs' stand here, so that something is checked on machines without the vectors; Wycheproof's are read from beside the
repository and are no part of it.
"""

from __future__ import annotations

import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tests.vault.engine.documented import hkdf, hpke_open
from tests.vault.engine.vault_cast import needs_wycheproof, read_vectors

unhex = bytes.fromhex


def derive(
    algorithm: HashAlgorithm, material: bytes, salt: bytes | None, info: bytes, length: int
) -> bytearray:
    """HKDF from a view into a buffer."""
    made = bytearray(length)
    HKDF(algorithm, length, salt, info).derive_into(memoryview(bytearray(material)), memoryview(made))
    return made


def test_hkdf_rfc_5869() -> None:
    first = (unhex("0b" * 22), bytes(range(13)), bytes(range(0xF0, 0xFA)), 42)
    expected = unhex("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865")
    assert derive(SHA256(), *first) == hkdf(*first, digest="sha256") == expected
    second = (bytes(range(0x50)), bytes(range(0x60, 0xB0)), bytes(range(0xB0, 0x100)), 82)
    expected = unhex(
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
        "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"
    )
    assert derive(SHA256(), *second) == hkdf(*second, digest="sha256") == expected
    expected = unhex("8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8")
    assert derive(SHA256(), unhex("0b" * 22), None, b"", 42) == expected
    assert hkdf(unhex("0b" * 22), b"", b"", 42, "sha256") == expected


def test_argon2id_rfc_9106() -> None:
    derivation = Argon2id(
        salt=b"\2" * 16,
        length=32,
        iterations=3,
        lanes=4,
        memory_cost=32,
        secret=b"\3" * 8,
        ad=b"\4" * 12,
    )
    made = bytearray(32)
    derivation.derive_into(memoryview(bytearray(b"\1" * 32)), memoryview(made))  # type: ignore[arg-type]
    assert made == unhex("0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659")


def test_hpke_rfc_9180_a_1() -> None:
    """The second implementation, which opens the engine's grants in `test_documented_formats`."""
    opened = hpke_open(
        unhex("4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8"),
        unhex("37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431"),
        unhex("4f6465206f6e2061204772656369616e2055726e"),
        b"Count-0",
        unhex("f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a"),
        aead=1,
        key_length=16,
    )
    assert opened == b"Beauty is truth, truth beauty"


def test_hmac_rfc_4231() -> None:
    expected = unhex("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843")
    text = b"what do ya want for nothing?"
    assert hmac.digest(memoryview(bytearray(b"Jefe")), text, "sha256") == expected
    other = HMAC(memoryview(bytearray(b"Jefe")), SHA256())
    other.update(text)
    assert other.finalize() == expected


def test_x25519_rfc_7748() -> None:
    private = X25519PrivateKey.from_private_bytes(
        unhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    )
    public = X25519PublicKey.from_public_bytes(
        unhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    )
    expected = unhex("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552")
    assert private.exchange(public) == expected


def test_aes_256_gcm_mcgrew_viega_case_14() -> None:
    sealed = bytearray(32)
    AESGCM(memoryview(bytearray(32))).encrypt_into(bytes(12), bytearray(16), b"", memoryview(sealed))
    assert sealed == unhex("cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919")


@needs_wycheproof
def test_wycheproof_aes_gcm() -> None:
    sealed_alike = opened_alike = refused = wrongly_refused = 0
    for _, test in read_vectors("aes_gcm"):
        nonce, aad, text = unhex(test["iv"]), unhex(test["aad"]), unhex(test["msg"])
        sealed = unhex(test["ct"] + test["tag"])
        cipher = AESGCM(memoryview(bytearray(unhex(test["key"]))))
        opened = memoryview(bytearray(len(text)))
        try:
            cipher.decrypt_into(nonce, memoryview(sealed), aad, opened)
        except InvalidTag:
            refused += 1
            wrongly_refused += test["result"] == "valid"
            continue
        except ValueError:
            # The library takes nonces of 8 to 128 bytes only; ours has 12.
            refused += 1
            wrongly_refused += test["result"] == "valid" and len(nonce) == 12
            continue
        assert test["result"] == "valid", test
        assert opened == text
        opened_alike += 1
        again = bytearray(len(sealed))
        cipher.encrypt_into(nonce, memoryview(text), aad, memoryview(again))
        assert again == sealed
        sealed_alike += 1
    assert opened_alike == sealed_alike >= 200
    assert refused >= 87
    assert wrongly_refused == 0


@needs_wycheproof
def test_wycheproof_hkdf() -> None:
    derived = refused = 0
    for name, algorithm, digest in (
        ("hkdf_sha256", SHA256(), "sha256"),
        ("hkdf_sha512", SHA512(), "sha512"),
    ):
        for _, test in read_vectors(name):
            inputs = (unhex(test["ikm"]), unhex(test["salt"]), unhex(test["info"]), test["size"])
            if test["result"] == "invalid":
                try:
                    derive(algorithm, *inputs)
                except ValueError:
                    refused += 1
                continue
            assert derive(algorithm, *inputs) == unhex(test["okm"]), test
            assert hkdf(*inputs, digest=digest) == unhex(test["okm"]), test
            derived += 1
    assert (derived, refused) == (163, 6)


@needs_wycheproof
def test_wycheproof_hmac_sha256() -> None:
    right = wrong = 0
    for group, test in read_vectors("hmac_sha256"):
        key, size = memoryview(bytearray(unhex(test["key"]))), group["tagSize"] // 8
        other = HMAC(key, SHA256())
        other.update(unhex(test["msg"]))
        made = hmac.digest(key, unhex(test["msg"]), "sha256")
        assert other.finalize() == made
        same = hmac.compare_digest(made[:size], unhex(test["tag"]))
        assert same == (test["result"] == "valid"), test
        right, wrong = right + same, wrong + (not same)
    assert (right, wrong) == (66, 108)


@needs_wycheproof
def test_wycheproof_x25519() -> None:
    """Shared secrets of zero, which points of low order make, are refused by the library: HPKE must not go on with them."""
    agreed = refused = 0
    for _, test in read_vectors("x25519"):
        private = X25519PrivateKey.from_private_bytes(unhex(test["private"]))
        public = X25519PublicKey.from_public_bytes(unhex(test["public"]))
        try:
            assert private.exchange(public) == unhex(test["shared"]), test
            agreed += 1
        except ValueError:
            assert test["result"] == "acceptable", test
            assert not any(unhex(test["shared"])), test
            refused += 1
    assert agreed + refused == 518
    assert agreed >= 264
