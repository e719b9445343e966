"""A KMS behind the slot: the stand-in, and AWS's calls as bytes."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from tests.vault.engine.vault_cast import VAULT, key_secret, random_root, secret
from vault.engine.aws_kms import AwsCredentials, AwsKms, HttpRequest, HttpResponse, parse_blob, sign_request
from vault.engine.buffers import SecretBuffer
from vault.engine.errors import DoesNotOpen, KmsFailed
from vault.engine.kms import SoftwareKms
from vault.engine.slots import KmsSecret, PasswordSecret, Slot, kms_context

ARN = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
NOW = datetime(2015, 8, 30, 12, 36, tzinfo=UTC)
EXAMPLE = AwsCredentials("AKIDEXAMPLE", secret(b"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"))


class FakeAws:
    """AWS KMS as far as its documentation says: keys by id, contexts compared, errors by name."""

    def __init__(self) -> None:
        self.requests: list[HttpRequest] = []
        self.inner = {ARN: SoftwareKms(ARN, SecretBuffer.random())}
        self.error: tuple[int, bytes] | None = None

    def __call__(self, request: HttpRequest) -> HttpResponse:
        self.requests.append(request)
        if self.error:
            return HttpResponse(*self.error)
        fields = msgspec.json.decode(request.body)
        target = request.headers["x-amz-target"]
        key = self.inner.get(fields["KeyId"])
        if key is None:
            return self._refuse("NotFoundException")
        context: Mapping[str, str] = fields["EncryptionContext"]
        if target == "TrentService.Encrypt":
            blob = key.wrap(secret(base64.b64decode(fields["Plaintext"])), context)
            return self._answer({"CiphertextBlob": base64.b64encode(blob).decode(), "KeyId": ARN})
        assert target == "TrentService.Decrypt"
        try:
            plain = key.unwrap(base64.b64decode(fields["CiphertextBlob"]), context)
        except DoesNotOpen:
            return self._refuse("InvalidCiphertextException")
        return self._answer({"Plaintext": base64.b64encode(plain.reveal_bytes()).decode(), "KeyId": ARN})

    def _answer(self, fields: dict[str, Any]) -> HttpResponse:
        return HttpResponse(200, msgspec.json.encode(fields))

    def _refuse(self, name: str) -> HttpResponse:
        return HttpResponse(400, msgspec.json.encode({"__type": name, "message": f"not for {ARN}"}))


def aws(send: FakeAws, key_id: str = ARN) -> AwsKms:
    return AwsKms(key_id, "eu-central-1", lambda: EXAMPLE, send, now=lambda: NOW)


def test_a_slot_opens_by_way_of_aws() -> None:
    service = FakeAws()
    kms = KmsSecret(aws(service))
    with random_root() as root:
        slot = kms.wrap(root, "slot-1")
        with kms.unwrap(slot) as opened:
            assert opened.key == root.key
        encrypt, decrypt = service.requests
        assert encrypt.url == decrypt.url == "https://kms.eu-central-1.amazonaws.com/"
        assert encrypt.headers["content-type"] == "application/x-amz-json-1.1"
        assert msgspec.json.decode(encrypt.body)["EncryptionContext"] == {
            "tokenhub:purpose": "vault slot",
            "tokenhub:vault": VAULT,
            "tokenhub:slot": "slot-1",
            "tokenhub:root-version": "1",
        }
        assert msgspec.json.decode(decrypt.body) == {
            "KeyId": ARN,
            "CiphertextBlob": base64.b64encode(slot.wrapped_key).decode(),
            "EncryptionContext": kms_context(VAULT, "slot-1", 1),
        }
        # The service never sees ROOT, only the slot's own key.
        assert base64.b64encode(root.key.reveal_bytes())[:40] not in encrypt.body + decrypt.body
    assert "Plaintext" not in f"{encrypt!r} {HttpResponse(200, b'Plaintext')!r}"


def test_a_slot_moved_to_another_place_is_refused_by_the_service_itself() -> None:
    service = FakeAws()
    kms = KmsSecret(aws(service))
    with random_root() as root:
        slot = kms.wrap(root, "slot-1")
    for change in ({"slot_id": "slot-2"}, {"vault_id": "other"}, {"root_version": 2}):
        moved: Slot = msgspec.structs.replace(slot, **change)
        with pytest.raises(DoesNotOpen):
            kms.unwrap(moved)


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (400, b'{"__type":"InvalidCiphertextException"}', DoesNotOpen),
        (400, b'{"__type":"com.amazonaws.kms#IncorrectKeyException","message":"x"}', DoesNotOpen),
        (400, b'{"__type":"AccessDeniedException","Message":"role canary"}', KmsFailed),
        (400, b'{"__type":"DisabledException"}', KmsFailed),
        (400, b'{"__type":"<script>"}', KmsFailed),
        (400, b'{"__type":["canary"]}', KmsFailed),
        (500, b"<html>canary</html>", KmsFailed),
        (503, b"", KmsFailed),
        (200, b"[]", KmsFailed),
        (200, b"{}", KmsFailed),
        (200, b'{"Plaintext":null}', KmsFailed),
        (200, b'{"Plaintext":"no base64!"}', KmsFailed),
        (200, b'{"Plaintext":7}', KmsFailed),
        (200, b'{"Plaintext":"AAAA"}', DoesNotOpen),
    ],
)
def test_what_the_service_says_is_told_by_name_only(status: int, body: bytes, error: type[Exception]) -> None:
    service = FakeAws()
    kms = KmsSecret(aws(service))
    with random_root() as root:
        slot = kms.wrap(root, "s")
    service.error = (status, body)
    with pytest.raises(error) as caught:
        kms.unwrap(slot)
    assert "canary" not in str(caught.value)
    assert "<" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_throttling_says_that_it_passes() -> None:
    with pytest.raises(KmsFailed) as caught:
        parse_blob(HttpResponse(400, b'{"__type":"ThrottlingException"}'), "Plaintext")
    assert caught.value.hint == "try again later"
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("method", "signature"),
    [
        ("GET", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("POST", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    ],
)
def test_signature_version_4_of_awss_test_suite(method: str, signature: str) -> None:
    """`get-vanilla` and `post-vanilla`."""
    headers = sign_request(
        method, "https://example.amazonaws.com/", {}, b"", "us-east-1", "service", EXAMPLE, NOW
    )
    assert headers["x-amz-date"] == "20150830T123600Z"
    assert headers["authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        f"SignedHeaders=host;x-amz-date, Signature={signature}"
    )


def test_a_roles_token_is_signed_too_and_each_part_changes_the_signature() -> None:
    token = AwsCredentials("AKIDEXAMPLE", EXAMPLE.secret_access_key, "session-token")
    one = sign_request("POST", "https://kms.a.amazonaws.com/", {"x-a": "1"}, b"{}", "a", "kms", token, NOW)
    assert one["x-amz-security-token"] == "session-token"
    assert "SignedHeaders=host;x-a;x-amz-date;x-amz-security-token," in one["authorization"]
    assert "session-token" not in repr(token.secret_access_key)
    others = [
        sign_request("POST", "https://kms.b.amazonaws.com/", {"x-a": "1"}, b"{}", "a", "kms", token, NOW),
        sign_request("POST", "https://kms.a.amazonaws.com/", {"x-a": "2"}, b"{}", "a", "kms", token, NOW),
        sign_request("POST", "https://kms.a.amazonaws.com/", {"x-a": "1"}, b"{ }", "a", "kms", token, NOW),
        sign_request("POST", "https://kms.a.amazonaws.com/", {"x-a": "1"}, b"{}", "b", "kms", token, NOW),
    ]
    signatures = {headers["authorization"].rpartition("=")[2] for headers in [one, *others]}
    assert len(signatures) == 5


@pytest.mark.parametrize(
    "url", ["https://a.example/?x=1", "https://a.example/a%20b", "https://a.example/a b"]
)
def test_urls_that_would_need_escaping_are_not_signed(url: str) -> None:
    with pytest.raises(ValueError, match="plain paths"):
        sign_request("POST", url, {}, b"", "a", "kms", EXAMPLE, NOW)


def test_a_region_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="region"):
        AwsKms(ARN, "evil.example/", lambda: EXAMPLE, FakeAws(), now=lambda: NOW)


def test_the_stand_in_binds_key_and_context() -> None:
    key = SecretBuffer.random()
    kms = SoftwareKms("k", key)
    wrapped = kms.wrap(secret(bytes(range(32))), {"a": "1", "b": "2"})
    assert kms.unwrap(wrapped, {"b": "2", "a": "1"}) == secret(bytes(range(32)))
    for other, context in (
        (kms, {"a": "1"}),
        (kms, {"a": "12", "b": ""}),
        (SoftwareKms("other", key), {"a": "1", "b": "2"}),
        (SoftwareKms("k", SecretBuffer.random()), {"a": "1", "b": "2"}),
    ):
        with pytest.raises(DoesNotOpen):
            other.unwrap(wrapped, context)
    with pytest.raises(ValueError, match="32 bytes"):
        SoftwareKms("k", secret(b"short"))


def test_a_slot_of_another_kind_is_refused_before_anything_is_asked_or_computed() -> None:
    service = FakeAws()
    peppered = PasswordSecret(secret(b"pw"), SecretBuffer.random())
    with random_root() as root:
        kms_slot, key_slot = KmsSecret(aws(service)).wrap(root, "s"), key_secret().wrap(root, "k")
        plain = PasswordSecret(secret(b"pw")).wrap(root, "p")
    asked = len(service.requests)
    for slot_secret, slot in (
        (KmsSecret(aws(service)), key_slot),
        (KmsSecret(aws(service)), msgspec.structs.replace(kms_slot, kdf="none")),
        (PasswordSecret(secret(b"pw")), kms_slot),
        (peppered, plain),
        (key_secret(), kms_slot),
    ):
        with pytest.raises(DoesNotOpen) as caught:
            slot_secret.unwrap(slot)
        assert caught.value.reason == "kind"
    assert len(service.requests) == asked
