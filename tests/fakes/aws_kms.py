"""A local server that speaks AWS KMS's Encrypt and Decrypt, and believes no request whose signature it can't make itself.

https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html, written down anew here: what is checked must not
be checked by itself.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([a-z0-9-]+)/kms/aws4_request, "
    r"SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})"
)
_MOST_SKEW = 300.0


@dataclass
class FakeAwsKms:
    """One key of one region. `asked` are the operations that were served; `refused` the names of errors, as AWS calls them."""

    key_id: str = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    region: str = "eu-central-1"
    access_key_id: str = "AKIDLOCALEXAMPLE"
    secret_access_key: str = field(default_factory=lambda: secrets.token_urlsafe(30), repr=False)
    session_token: str = ""
    url: str = ""
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    away: bool = False
    _wrapped: dict[str, tuple[str, dict[str, str]]] = field(default_factory=dict, repr=False)

    @property
    def variables(self) -> dict[str, str]:
        """What a process must have in its environment."""
        found = {"AWS_ACCESS_KEY_ID": self.access_key_id, "AWS_SECRET_ACCESS_KEY": self.secret_access_key}
        return {**found, "AWS_SESSION_TOKEN": self.session_token} if self.session_token else found

    def answer(self, host: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, Any]]:
        """Status and document."""
        error = "KMSInternalException" if self.away else self._find_refusal(host, headers, body)
        if not error:
            fields = json.loads(body)
            context = fields["EncryptionContext"]
            operation = headers["x-amz-target"].removeprefix("TrentService.")
            if fields["KeyId"] != self.key_id:
                error = "NotFoundException"
            elif operation == "Encrypt":
                blob = base64.b64encode(secrets.token_bytes(120)).decode()
                self._wrapped[blob] = (fields["Plaintext"], context)
                self.asked.append((operation, context))
                return 200, {"CiphertextBlob": blob, "KeyId": self.key_id}
            elif self._wrapped.get(fields["CiphertextBlob"], ("", None))[1] != context:
                error = "InvalidCiphertextException"
            else:
                self.asked.append((operation, context))
                return 200, {"Plaintext": self._wrapped[fields["CiphertextBlob"]][0], "KeyId": self.key_id}
        self.refused.append(error)
        return 400, {"__type": error, "message": "refused"}

    def _find_refusal(self, host: str, headers: dict[str, str], body: bytes) -> str:
        found = _AUTHORIZATION.fullmatch(headers.get("authorization", ""))
        if found is None:
            return "IncompleteSignatureException"
        access_key, day, region, names, signature = found.groups()
        moment = headers.get("x-amz-date", "")
        if access_key != self.access_key_id or headers.get("x-amz-security-token", "") != self.session_token:
            return "UnrecognizedClientException"
        signed = names.split(";")
        needed = {
            "host",
            "x-amz-date",
            "x-amz-target",
            *(["x-amz-security-token"] if self.session_token else []),
        }
        if region != self.region or not needed <= set(signed) or not moment.startswith(day):
            return "InvalidSignatureException"
        sent_at = datetime.strptime(moment, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        if abs((datetime.now(UTC) - sent_at).total_seconds()) > _MOST_SKEW:
            return "InvalidSignatureException"
        lines = "".join(f"{name}:{host if name == 'host' else headers[name]}\n" for name in signed)
        request = f"POST\n/\n\n{lines}\n{names}\n{hashlib.sha256(body).hexdigest()}"
        scope = f"{day}/{region}/kms/aws4_request"
        digest = hashlib.sha256(request.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{digest}"
        key = f"AWS4{self.secret_access_key}".encode()
        for part in (*scope.split("/"), text):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        return "" if hmac.compare_digest(key.hex(), signature) else "InvalidSignatureException"


@contextmanager
def fake_aws_kms(**fields: Any) -> Iterator[FakeAwsKms]:
    """Serves on a free port of this machine; `url` is the endpoint."""
    kms = FakeAwsKms(**fields)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", "0")))
            status, document = kms.answer(headers.get("host", ""), headers, body)
            encoded = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-type", "application/x-amz-json-1.1")
            self.send_header("content-length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing on standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    kms.url = f"http://127.0.0.1:{server.server_address[1]}/"
    try:
        yield kms
    finally:
        server.shutdown()
        thread.join(5)
        server.server_close()
