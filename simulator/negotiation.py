"""Content negotiation: refuses requests that Twilio would answer in XML.

Twilio answers in XML if a path does not end in `.json`. The simulator has JSON only, so it refuses such a request unless its
header Accept names `application/json`. Large answers are compressed, as Twilio does.
"""

import gzip
from typing import Any, Final

from fastapi import Request
from fastapi.responses import JSONResponse

from simulator.errors import TwilioError

_MIN_COMPRESSED_BYTES: Final = 1024


def require_json(request: Request) -> None:
    asked_for_json = "application/json" in request.headers.get("accept", "").lower()
    if not request.scope["path"].endswith(".json") and not asked_for_json:
        raise TwilioError(20406)


def json_response(document: Any, request: Request) -> JSONResponse:
    """Returns the document as JSON, compressed if it is large and the client accepts gzip."""
    response = JSONResponse(document)
    if len(response.body) >= _MIN_COMPRESSED_BYTES and "gzip" in request.headers.get("accept-encoding", "").lower():
        response.body = gzip.compress(response.body, compresslevel=1)
        response.headers.update(
            {"Content-Encoding": "gzip", "Content-Length": str(len(response.body)), "Vary": "Accept-Encoding"}
        )
    return response
