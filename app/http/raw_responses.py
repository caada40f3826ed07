"""Renders the error responses that app/http/protocol.py sends itself, without the application."""

from collections.abc import Iterable
from uuid import uuid4

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from app.errors import CallgateError
from app.http.problems import ProblemRenderer


def raw_error_response(
    error: CallgateError, *, method: str, path: str, default_headers: Iterable[tuple[bytes, bytes]]
) -> bytes:
    """Returns the bytes of a problem+json response that reports the error and says that the connection will be closed.

    `default_headers` are the headers that uvicorn adds to every response.
    """
    request_id = uuid4().hex
    response = ProblemRenderer().render(error, method=method, path=path, state={"request_id": request_id})
    fields = [
        *default_headers,
        *response.raw_headers,
        (b"x-request-id", request_id.encode()),
        (b"connection", b"close"),
    ]
    head = b"".join(b"%b: %b\r\n" % field for field in fields)
    return STATUS_LINE[error.status] + head + b"\r\n" + bytes(response.body)
