"""The data plane without Django: a fresh interpreter imports the gateway, serves a request, and has loaded no `django` module."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.architecture.sources import ROOT

PROGRAM = """
import asyncio, json, pathlib, sys, urllib.request
from tests.builders import a_key, a_model, a_provider, a_snapshot
from tests.gateway.serving import running_gateway

provider = a_provider("sim", "simulated", 1, credentials=())
key, text = a_key()
snapshot = a_snapshot(providers=(provider,), models=(a_model(provider, "sim-small"),), keys=(key,))

def ask(origin):
    body = json.dumps({"model": "sim-small", "messages": [{"role": "user", "content": "hi"}]}).encode()
    request = urllib.request.Request(origin + "/v1/chat/completions", body, {"authorization": "Bearer " + text})
    with urllib.request.urlopen(request) as answer:
        return answer.status

async def main():
    async with running_gateway(snapshot, pathlib.Path(sys.argv[1])) as gateway:
        status = await asyncio.to_thread(ask, gateway.origin)
        finals = await gateway.settled(1)
    loaded = sorted(name for name in sys.modules if name.partition(".")[0] in ("django", "channels", "rest_framework"))
    print(json.dumps({"status": status, "outcome": finals[0].outcome, "loaded": loaded}))

asyncio.run(main())
"""


def test_a_fresh_interpreter_serves_a_request_without_django(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"status": 200, "outcome": "completed", "loaded": []}
