"""Translates the result of a request to Twilio into Callgate's errors and into the data of the call's events."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any
from uuid import UUID

from app.calls.models import Call
from app.calls.upstream_problems import problem_for_change
from app.errors import (
    ActionUnknown,
    CallgateError,
    FieldError,
    InvalidRequest,
    SubresourceNotFound,
    UpstreamUnreachable,
    WrongCallState,
)
from app.http.concurrency import run_with_pause
from app.twilio.errors import ANSWER_TOO_LONG, TwilioError, TwilioNotFound, TwilioOutcomeUnknown, TwilioWrongState
from app.twilio.forwarding import MAX_JSON_BYTES, StreamedResponse, TwilioChangeResponse
from app.twilio.schemas import SID_PATTERN, parse_storable_json

_SUBRESOURCE_ERRORS_BY_TWILIO_ERROR: Mapping[type[TwilioError], type[CallgateError]] = {
    TwilioWrongState: WrongCallState,
    TwilioNotFound: SubresourceNotFound,
}


def no_usable_answer_error() -> UpstreamUnreachable:
    """Returns the error for a read to which Twilio gave no usable answer."""
    return UpstreamUnreachable(
        "Twilio gave no usable answer. The request changes nothing, so it can be repeated.", retry_after_s=5
    )


def page_too_long_error(page_size_name: str) -> InvalidRequest:
    """Returns the error for a list page that is too long. `page_size_name` is the parameter that the client must reduce."""
    detail = f"must be smaller: Twilio's page is longer than {MAX_JSON_BYTES // 2**20} MiB"
    return InvalidRequest(field_errors=(FieldError(f"?{page_size_name}", "page_too_long", detail),))


def action_outcome_unknown_error(call: Call, *, repeatable: bool) -> ActionUnknown:
    """Returns the error for a change that Twilio may have made. If `repeatable`, the error says that a repetition is safe."""
    detail = "Repeat it under the same Idempotency-Key: Twilio does it once." if repeatable else None
    error = ActionUnknown(detail, call_id=call.id)
    error.is_safe_to_repeat = repeatable
    return error


def event_data_of_error(error: TwilioError) -> dict[str, Any]:
    """Returns the data of the event that records the error. Leaves out Twilio's texts, which may repeat request parameters."""
    unknown = isinstance(error, TwilioOutcomeUnknown)
    data = {"result": "unknown" if unknown else "not_done", "reason": error.reason}
    answer = error.answer
    if answer is None:
        return data
    answered = {"status": answer.status, "code": answer.code, "twilio_request_id": answer.request_id}
    return data | {name: value for name, value in answered.items() if value is not None}


def event_data_of_answer(response: TwilioChangeResponse) -> dict[str, Any]:
    """Returns the data of the event that records a change: the SID in Twilio's answer, or an empty dict if it has none."""
    sid = (response.document or {}).get("sid")
    return {"sid": sid} if isinstance(sid, str) and SID_PATTERN.fullmatch(sid) else {}


def error_for_client(call_id: UUID | None, error: TwilioError) -> CallgateError:
    """Translates a TwilioError to an error for the client. Use it only for errors that prove that Twilio changed nothing."""
    return problem_for_change(error, _SUBRESOURCE_ERRORS_BY_TWILIO_ERROR, call_id=call_id)


async def read_json_answer(
    answer: AbstractAsyncContextManager[StreamedResponse], *, page_size_name: str | None = None
) -> dict[str, Any]:
    """Returns the JSON object in Twilio's answer. Raises UpstreamUnreachable if the answer breaks off or is no JSON object.

    If the answer is a page of a list, `page_size_name` is the parameter with which the client can ask for a smaller page. If
    such a page is too long, raises InvalidRequest for this parameter.
    """
    try:
        async with answer as response:
            chunks = [chunk async for chunk in response.chunks]
            document = await run_with_pause(partial(_parse_chunks, chunks))
    except TwilioOutcomeUnknown as error:
        if page_size_name and error.reason == ANSWER_TOO_LONG:
            raise page_too_long_error(page_size_name) from error
        raise no_usable_answer_error() from error
    if not isinstance(document, dict):
        raise no_usable_answer_error()
    return document


def _parse_chunks(chunks: list[bytes]) -> Any:
    """Returns the parsed JSON in `chunks`, or None if it is invalid. Empties `chunks`, so that its memory is freed at once."""
    body = b"".join(chunks)
    chunks.clear()
    return parse_storable_json(body)
