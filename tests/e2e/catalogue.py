"""The models that real clients are tried on: the built-in simulation, and a vendor of each kind played by the mock provider.

An OpenAI client on `via-anthropic` and an Anthropic client on `via-openai` are translated; the other pairs pass through.
"""

from __future__ import annotations

import html
import re
import struct
import zlib
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from tests.e2e.administrator import Administrator
from tests.e2e.service import Row, Service

SIMULATED, VIA_OPENAI, VIA_ANTHROPIC = "sim-small", "via-openai", "via-anthropic"
CHAT_MODELS = (SIMULATED, VIA_OPENAI, VIA_ANTHROPIC)
OPENAI_MODELS = (SIMULATED, VIA_OPENAI)
"""The models behind which `/v1/embeddings` and `/v1/completions` exist."""
CREDENTIAL = "sk-mock-vendor-0123456789"
CREDENTIAL_VARIABLE = "TOKENHUB_CRED_MOCK"

_PROVIDER = """
  - name: mock-{kind}
    kind: {kind}
    endpoints: ["{origin}"]
    credentials: [{{name: main, source: env, reference: {variable}}}]
"""
_MODEL = """
  - provider: mock-{kind}
    name: via-{kind}
    upstream_name: {upstream}
    context_tokens: 200000
    max_output_tokens: 16384
    capabilities: [{capabilities}]
    price: {{input: "2", cache_read: "0.2", cache_write_5m: "2.5", cache_write_1h: "4", output: "8"}}
"""
_CAPABILITIES = "chat, streaming, tools, vision, json_schema, thinking"


def declare_vendors(openai_origin: str, anthropic_origin: str) -> str:
    """The configuration file for both mock vendors."""
    providers, models = "", ""
    for kind, origin, upstream, more in (
        ("openai", openai_origin, "gpt-mock", ", completions, embeddings"),
        ("anthropic", anthropic_origin, "claude-mock", ""),
    ):
        providers += _PROVIDER.format(kind=kind, origin=origin, variable=CREDENTIAL_VARIABLE)
        models += _MODEL.format(kind=kind, upstream=upstream, capabilities=_CAPABILITIES + more)
    return f"providers:{providers}\nmodels:{models}"


@dataclass(frozen=True, slots=True)
class Accounts:
    """What the calls of one test left in the ledger and on the administrator's page. `since` is when the test began: tests
    run one after the other, so that later rows are its own.
    """

    service: Service
    administrator: Administrator
    since: datetime

    def rows(self, count: int) -> list[Row]:
        """This test's rows, oldest first, once there are at least `count`."""
        query = "SELECT * FROM usage_usagerecord WHERE started_at >= ? ORDER BY id"
        since = self.since.replace(tzinfo=None).isoformat(" ", "microseconds")
        return self.service.until(lambda: self.service.sql(query, since), lambda rows: len(rows) >= count)

    def check(self, model: str, requests: int = 1, *, output: bool = True) -> list[Row]:
        """Fails unless this test left exactly `requests` calls of `model` in the ledger, completed, with tokens and cost, and
        the usage page shows each with the same figures. Returns the rows.
        """
        rows = self.rows(requests)
        assert len(rows) == requests, [(row["model"], row["operation"], row["outcome"]) for row in rows]
        page = _cells(self.administrator.page("/admin/usage/usagerecord/"))
        for row in rows:
            given = sum(row[name] for name in ("input", "cache_read", "cache_write_5m", "cache_write_1h"))
            made = row["output"] + row["reasoning"]
            assert row["model"] == model
            assert (row["outcome"], row["usage_source"]) == ("completed", "provider"), row
            assert given > 0, row
            assert (made > 0) == output, row
            assert row["cost_nanos"] > 0, row
            # A page is a hundred rows, newest first.
            shown = page[row["request_id"]]
            assert f"{given:,} / {made:,}" == shown[5], (row, shown)
            dollars = [Decimal(cell[1:]) for cell in shown if cell.startswith("$")]
            assert dollars == [Decimal(row["cost_nanos"]).scaleb(-9)], (row["cost_nanos"], shown)
        return rows


def _cells(page: str) -> dict[str, list[str]]:
    """The text of each line's cells on the usage page by request id."""
    lines = {}
    for line in re.findall(r"<tr\b.*?</tr>", page, re.DOTALL):
        found = re.search(r"/usagerecord/request/([^/\"]+)/", line)
        if found:
            cells = re.findall(r"<td\b[^>]*>(.*?)</td>", line, re.DOTALL)
            lines[found[1]] = [html.unescape(re.sub(r"<[^>]+>", "", cell)).strip() for cell in cells]
    return lines


def a_picture(side: int = 16) -> bytes:
    """A red square as PNG."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress((b"\0" + b"\xff\0\0" * side) * side)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
