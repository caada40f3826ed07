"""Does the process beside us still answer? What a container runtime asks every few seconds.

With nothing but the standard library, and reached from `app.__main__` without the rest of the command line: importing that
takes a second of CPU, this a twentieth.
"""

import http.client
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

OUR_LIVEZ = "http://127.0.0.1:8000/livez"
_PATIENCE_S = 2.0
# Of each role: the options that name its port, the port without them, and the path.
_ROLES: dict[str, tuple[tuple[str, ...], str | None, str]] = {
    "serve": (("--port",), "8000", "/livez"),
    "worker": (("--ops-port", "--metrics-port"), None, "/livez"),
    "simulator": (("--port",), "8010", "/_simulator/health"),
}


def url_for(command: Sequence[str], ops_port: str | None = None) -> str | None:
    """What to ask the process that was started with this command; None for a worker without a port, which answers nobody."""
    programs = [place for place, word in enumerate(command) if Path(word).name == "callgate"]
    role, *arguments = [*command[programs[0] + 1 :], ""] if programs else [""]
    if role not in _ROLES:
        return OUR_LIVEZ
    options, port, path = _ROLES[role]
    if role == "worker":
        port = ops_port
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if word in options:
            port = following
        elif word.startswith(tuple(f"{option}=" for option in options)):
            port = word.partition("=")[2]
    return port and f"http://127.0.0.1:{port}{path}"


def _first_process() -> list[str]:
    """The command of the container's process; empty where it cannot be read."""
    try:
        return Path("/proc/1/cmdline").read_text().split("\0")
    except (OSError, UnicodeDecodeError):
        return []


def trouble(url: str | None = None) -> str | None:
    """Why there is no good answer, in a few words; None when there is one. Proxies of the environment are not asked."""
    url = url or url_for(_first_process(), os.environ.get("CALLGATE_OPS_PORT"))
    if url is None:
        return None
    asked = urlsplit(url)
    connection = http.client.HTTPConnection(asked.netloc, timeout=_PATIENCE_S)
    try:
        connection.request("GET", asked.path or "/")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"no answer from {url} ({error or type(error).__name__})"
    finally:
        connection.close()
    return None if status == http.client.OK else f"{url} answers {status}"
