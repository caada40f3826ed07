"""Does the process beside us still answer? What a container runtime asks every few seconds.

With nothing but the standard library, and reached from `app.__main__` without the rest of the command line: importing that
takes a second of CPU, this a twentieth.
"""

import http.client
from urllib.parse import urlsplit

OUR_LIVEZ = "http://127.0.0.1:8000/livez"
_PATIENCE_S = 2.0


def trouble(url: str = OUR_LIVEZ) -> str | None:
    """Why there is no good answer, in a few words; None when there is one. Proxies of the environment are not asked."""
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
