"""Generates load with wrk, which needs a fraction of the processor time that the services need for a request."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path

SCRIPT = Path(__file__).with_name("load.lua")
KEY_PLACEHOLDER = "@KEY@"


def missing_requirement() -> str | None:
    """Returns the advice to install wrk if it is not installed, otherwise None."""
    return None if shutil.which("wrk") else "wrk is not installed: apt-get install wrk"


@dataclass(frozen=True)
class Load:
    """The results of one run of wrk."""

    requests: int
    seconds: float
    refused: int
    """The number of requests that were answered with a status of 400 or more."""
    broken: int
    """The number of requests that got no answer."""
    p50_ms: float
    p99_ms: float


def write_requests(path: Path, requests: Sequence[bytes]) -> Path:
    path.write_bytes(b"\0".join(requests))
    return path


def run_load(url: str, requests: Path, *, prefix: str, connections: int, seconds: float) -> Load:
    """Sends the requests of the file in turn. Each connection sends the next request after the answer to its last one.

    Requests that contain KEY_PLACEHOLDER are repeated, each time with a new idempotency key that begins with `prefix`. Other
    requests are sent once.
    """
    # wrk takes whole seconds only.
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{max(1, round(seconds))}s"]
    command += ["--timeout", "60s", "--script", str(SCRIPT), url, "--", str(requests), prefix]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result = json.loads(out.splitlines()[-1])
    if not result["requests"]:
        result |= {"p50_ms": nan, "p99_ms": nan}
    return Load(**result)
