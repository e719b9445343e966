"""AWS KMS behind the interface of `kms`: the two calls, their signature, their answers. Pure: the call itself is passed in.

https://docs.aws.amazon.com/kms/latest/APIReference/API_Encrypt.html, API_Decrypt.html
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html (Signature Version 4)
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from vault.engine.buffers import SecretBuffer
from vault.engine.errors import DoesNotOpen, KmsFailed
from vault.engine.kms import KmsContext

SERVICE: Final = "kms"
_REGION = re.compile(r"[a-z0-9-]{1,40}", re.ASCII)
_NOT_OURS = frozenset({"InvalidCiphertextException", "IncorrectKeyException"})
_LATER = frozenset(
    {"ThrottlingException", "KMSInternalException", "DependencyTimeoutException", "KeyUnavailableException"}
)


@dataclass(frozen=True, slots=True)
class AwsCredentials:
    """An access key; `session_token` for a role's temporary one."""

    access_key_id: str
    secret_access_key: SecretBuffer
    session_token: str = ""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A POST to send as it is: every header is signed or fixed by the length. The body holds a key in base64."""

    url: str
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        return f"HttpRequest({self.url!r})"


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """What came back. The body of a Decrypt holds a key in base64."""

    status: int
    body: bytes

    def __repr__(self) -> str:
        return f"HttpResponse({self.status})"


type Send = Callable[[HttpRequest], HttpResponse]
"""Makes the call, blocking, with a deadline of its own. Raises KmsFailed when no answer came."""


class AwsKms:
    """A symmetric AWS KMS key. `credentials` is asked before each call, since a role's expire."""

    def __init__(
        self,
        key_id: str,
        region: str,
        credentials: Callable[[], AwsCredentials],
        send: Send,
        *,
        now: Callable[[], datetime],
        endpoint: str = "",
    ) -> None:
        """`key_id` is an ARN or id. Raises ValueError for a region that can't be one. `endpoint` for VPC endpoints."""
        if _REGION.fullmatch(region) is None:
            raise ValueError("that is not a region of AWS")
        self._key_id = key_id
        self._region = region
        self._credentials = credentials
        self._send = send
        self._now = now
        self._endpoint = endpoint or f"https://kms.{region}.amazonaws.com/"

    @property
    def key_id(self) -> str:
        """The key's ARN or id."""
        return self._key_id

    def wrap(self, key: SecretBuffer, context: KmsContext) -> bytes:
        """KMS's Encrypt."""
        with key.exposed() as view:
            encoded = base64.b64encode(view).decode()
        answer = self._call(
            "Encrypt", {"KeyId": self._key_id, "Plaintext": encoded, "EncryptionContext": dict(context)}
        )
        return parse_blob(answer, "CiphertextBlob")

    def unwrap(self, wrapped: bytes, context: KmsContext) -> SecretBuffer:
        """KMS's Decrypt. Naming the key, so that a ciphertext under an attacker's own key is refused."""
        encoded = base64.b64encode(wrapped).decode()
        answer = self._call(
            "Decrypt", {"KeyId": self._key_id, "CiphertextBlob": encoded, "EncryptionContext": dict(context)}
        )
        # Base64's result is a bytes object that stays until Python uses its place again.
        return SecretBuffer.copy_of(parse_blob(answer, "Plaintext"))

    def _call(self, operation: str, fields: Mapping[str, Any]) -> HttpResponse:
        request = build_request(
            operation, fields, self._endpoint, self._region, self._credentials(), self._now()
        )
        return self._send(request)


def build_request(
    operation: str,
    fields: Mapping[str, Any],
    endpoint: str,
    region: str,
    credentials: AwsCredentials,
    now: datetime,
) -> HttpRequest:
    """The signed request of one operation of KMS (`Encrypt`, `Decrypt`)."""
    body = msgspec.json.encode(fields)
    headers = {"content-type": "application/x-amz-json-1.1", "x-amz-target": f"TrentService.{operation}"}
    signed = sign_request("POST", endpoint, headers, body, region, SERVICE, credentials, now)
    return HttpRequest(endpoint, signed, body)


def parse_blob(response: HttpResponse, field: str) -> bytes:
    """The bytes in a field of a good answer. Raises DoesNotOpen when KMS says so, KmsFailed for all else."""
    try:
        answer = msgspec.json.decode(response.body, type=dict[str, Any])
    except msgspec.DecodeError:
        raise KmsFailed(f"AWS KMS answered {response.status} with something other than JSON") from None
    if response.status != 200:
        # "com.amazonaws.kms#InvalidCiphertextException" in some answers. The message beside it names keys and roles.
        name = str(answer.get("__type", "")).rpartition("#")[2][:80]
        if name in _NOT_OURS:
            raise DoesNotOpen("authentication")
        raise KmsFailed(
            f"AWS KMS answered {response.status} {name if name.isalnum() else ''}".rstrip(),
            hint="try again later"
            if name in _LATER
            else "look at the key's state and policy, and at the role's",
        )
    try:
        return base64.b64decode(answer[field], validate=True)
    except (KeyError, TypeError, binascii.Error, ValueError):
        raise KmsFailed(f"AWS KMS answered without a {field}") from None


def sign_request(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    region: str,
    service: str,
    credentials: AwsCredentials,
    now: datetime,
) -> dict[str, str]:
    """The headers with `host`, `x-amz-date`, the session's token and Signature Version 4's `authorization`.

    For URLs with a plain path and no query, as KMS has; header names in lower case. Raises ValueError for others.
    """
    parts = urlsplit(url)
    path = parts.path or "/"
    if parts.query or "%" in path or not re.fullmatch(r"[A-Za-z0-9/._~-]+", path):
        raise ValueError("only plain paths are signed here")
    moment = now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    signed = {**headers, "host": parts.netloc, "x-amz-date": moment}
    if credentials.session_token:
        signed["x-amz-security-token"] = credentials.session_token
    names = ";".join(sorted(signed))
    lines = "".join(f"{name}:{' '.join(signed[name].split())}\n" for name in sorted(signed))
    canonical = f"{method}\n{path}\n\n{lines}\n{names}\n{hashlib.sha256(body).hexdigest()}"
    scope = f"{moment[:8]}/{region}/{service}/aws4_request"
    to_sign = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    signature = _sign(credentials.secret_access_key, scope, to_sign)
    signed["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key_id}/{scope}, "
        f"SignedHeaders={names}, Signature={signature}"
    )
    return signed


def _sign(secret: SecretBuffer, scope: str, text: str) -> str:
    """The day's keys, each of the one before, are digests that open nothing else; only the secret is in a buffer."""
    with SecretBuffer(4 + len(secret)) as start, start.exposed() as view, secret.exposed() as secret_view:
        view[:4] = b"AWS4"
        view[4:] = secret_view
        date, *more = scope.split("/")
        key = hmac.digest(view, date.encode(), "sha256")
    for part in more:
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()
