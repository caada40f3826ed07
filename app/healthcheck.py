"""The health check of a container: asks the container's main process whether it still answers.

Container runtimes run it every few seconds, so it imports only the standard library. Importing the whole command line would
take 20 times as long.
"""

import http.client
import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

DEFAULT_HEALTH_URL = "http://127.0.0.1:8000/livez"
_REQUEST_TIMEOUT_S = 2.0
# For each command: the options that set its port, its default port, and the path.
_HEALTH_URL_PARTS_BY_COMMAND: dict[str, tuple[tuple[str, ...], str | None, str]] = {
    "serve": (("--port",), "8000", "/livez"),
    "worker": (("--ops-port", "--metrics-port"), None, "/livez"),
    "simulator": (("--port",), "8010", "/_simulator/health"),
}


def health_url_of_command(command: Sequence[str], ops_port: str | None = None) -> str | None:
    """Returns the health URL of a process that was started with `command`. Returns None for a worker that serves no port.

    `ops_port` is the worker's CALLGATE_OPS_PORT. For any command other than `callgate serve`, `worker` and `simulator`, returns
    the default health URL of `callgate serve`.
    """
    programs = [position for position, word in enumerate(command) if Path(word).name == "callgate"]
    role, *arguments = [*command[programs[0] + 1 :], ""] if programs else [""]
    if role not in _HEALTH_URL_PARTS_BY_COMMAND:
        return DEFAULT_HEALTH_URL
    options, port, path = _HEALTH_URL_PARTS_BY_COMMAND[role]
    if role == "worker":
        port = ops_port
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if word in options:
            port = following
        elif word.startswith(tuple(f"{option}=" for option in options)):
            port = word.partition("=")[2]
    return port and f"http://127.0.0.1:{port}{path}"


def _main_process_command() -> list[str]:
    """Returns the command line of the container's main process (pid 1), or an empty list if the command line cannot be read."""
    try:
        return Path("/proc/1/cmdline").read_text().split("\0")
    except (OSError, UnicodeDecodeError):
        return []


def check_health(url: str | None = None) -> str | None:
    """Returns why the process is not healthy, or None if it answers 200 or serves no health URL. Uses no HTTP proxy.

    If `url` is None, the health URL of the container's main process is used.
    """
    url = url or health_url_of_command(_main_process_command(), os.environ.get("CALLGATE_OPS_PORT"))
    if url is None:
        return None
    try:
        parts = urlsplit(url)
        with closing(http.client.HTTPConnection(parts.netloc, timeout=_REQUEST_TIMEOUT_S)) as connection:
            connection.request("GET", parts.path or "/")
            status = connection.getresponse().status
    except (OSError, http.client.HTTPException, ValueError, OverflowError) as error:  # the last two for a wrong URL
        return f"no answer from {url} ({error or type(error).__name__})"
    return None if status == http.client.OK else f"{url} answers {status}"
