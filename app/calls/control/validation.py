"""Validates a change to a call: https://www.twilio.com/docs/voice/api/call-resource#update-a-call-resource."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from app.calls.parameter_types import refuse_too_many_userinfos_in_request
from app.calls.parameters import CallUpdate
from app.errors import FieldError, InvalidRequest
from app.http.field_errors import field_errors_from


def validate_update(body: Mapping[str, Any]) -> CallUpdate:
    """Checks the parameters of an update and returns them as a CallUpdate. Raises InvalidRequest if one is invalid.

    Also raises InvalidRequest if there are none, or if both `url` and `twiml` are given.
    """
    try:
        update = CallUpdate.model_validate(body)
    except ValidationError as error:
        raise InvalidRequest(field_errors=tuple(field_errors_from(error))) from None
    if not update.given_parameters():
        raise InvalidRequest(field_errors=(FieldError("", "nothing_to_change", "must name at least one parameter"),))
    if update.url and update.twiml:
        raise InvalidRequest(field_errors=(FieldError("/twiml", "url_and_twiml", "must not be given together with url"),))
    refuse_too_many_userinfos_in_request(vars(update).values())
    return update
