"""CallgateError, the base class of all errors that become error responses, and the types of its attributes.

The subclasses of CallgateError are in app/errors.py and app/request_errors.py.
"""

from dataclasses import dataclass
from typing import ClassVar, Final, Literal, get_args
from uuid import UUID

ExecutionName = Literal["scheduled", "pending", "started", "not_started", "unknown"]
EXECUTIONS: Final[tuple[ExecutionName, ...]] = get_args(ExecutionName)


@dataclass(frozen=True, slots=True)
class FieldError:
    """An error in one part of a request, or a warning about this part.

    `pointer` names the part: an RFC 6901 JSON pointer into the body, the name of a header, `?` and the name of a query
    parameter, or `path/` and the name of a path parameter. `code` is a stable name of the fault, and `detail` explains it.
    """

    pointer: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class TwilioErrorResponse:
    """Twilio's error response: its HTTP status, and Twilio's own code and texts. What the response lacks is None."""

    status: int | None = None
    code: int | None = None
    message: str | None = None
    more_info: str | None = None
    request_id: str | None = None


class CallgateError(Exception):
    """The base class of all errors that become error responses.

    Clients see `detail`: it must hold no secret, no exception text and no SQL.
    """

    slug: ClassVar[str]
    status: ClassVar[int]
    title: ClassVar[str]
    execution: ClassVar[Literal["not_started", "unknown"]] = "not_started"
    is_safe_to_repeat: bool = True
    """Whether repeating the request can never place a second call."""
    repeat_with_same_key: bool = True
    """Whether a client that repeats the request should send the same Idempotency-Key."""
    default_detail: ClassVar[str] = ""

    def __init__(
        self,
        detail: str | None = None,
        *,
        call_id: UUID | None = None,
        field_errors: tuple[FieldError, ...] = (),
        upstream: TwilioErrorResponse | None = None,
        retry_after_s: int | None = None,
        scope: str | None = None,
    ) -> None:
        self.detail = detail or self.default_detail
        self.call_id = call_id
        self.field_errors = field_errors
        self.upstream = upstream
        self.retry_after_s = retry_after_s
        # The scope that the API key lacks.
        self.scope = scope
        super().__init__(self.detail)
