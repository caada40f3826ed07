"""The parameters of Twilio's UpdateCall in snake_case, and what may be asked with them.

https://www.twilio.com/docs/voice/api/call-resource#update-a-call-resource
"""

from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.calls.parameters import CallbackUrl, HttpMethod, HttpUrl, Text
from app.errors import Fault, InvalidRequest
from app.faults import fault_of

EndStatus = Literal["canceled", "completed"]


class CallUpdate(BaseModel):
    """A change to a call that is under way: Twilio's nine parameters."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    status: EndStatus | None = Field(
        None,
        description="`canceled` ends a call that is queued or ringing, and leaves one in progress; `completed` ends both.",
    )
    url: HttpUrl | None = Field(None, description="Where Twilio fetches the TwiML that the call goes on with.")
    twiml: Text | None = Field(None, max_length=4000, description="The TwiML itself, instead of `url`.")
    method: HttpMethod | None = Field(None, description="How `url` is fetched; POST by default.")
    fallback_url: HttpUrl | None = Field(None, description="Fetched when `url` fails.")
    fallback_method: HttpMethod | None = Field(None, description="How `fallback_url` is fetched; POST by default.")
    status_callback: CallbackUrl | None = Field(None, description="Where the call's progress is told to from now on.")
    status_callback_method: HttpMethod | None = Field(None, description="POST by default.")
    time_limit: int | None = Field(None, ge=1, description="Longest duration of the call in seconds.")

    @property
    def only_ends(self) -> bool:
        """Nothing but the end of the call is asked for: asking twice does no more than asking once."""
        return self.given().keys() == {"status"}

    def for_twilio(self) -> dict[str, Any]:
        """Without the status callback, about which more is to be decided."""
        return self.model_dump(exclude_none=True, exclude={"status_callback", "status_callback_method"})

    def given(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)

    def secrets(self) -> list[str]:
        """Passwords in URLs: they must not come back in anybody's words."""
        urls = (value for value in self.given().values() if isinstance(value, str) and "://" in value)
        return [password for url in urls if (password := urlsplit(url).password)]

    def for_event(self) -> dict[str, Any]:
        """What the record tells of it: which parameters, and of their values only what is neither secret nor personal."""
        told = {"parameters": sorted(self.given()), "status": self.status, "time_limit": self.time_limit}
        return {name: value for name, value in told.items() if value is not None}


def validate_update(body: Mapping[str, Any]) -> CallUpdate:
    """Raises InvalidRequest with every fault."""
    try:
        update = CallUpdate.model_validate(body)
    except ValidationError as error:
        details = error.errors(include_input=False, include_url=False, include_context=False)
        raise InvalidRequest(faults=tuple(fault_of(detail) for detail in details)) from None
    if not update.given():
        raise InvalidRequest(faults=(Fault("", "nothing_to_change", "must name at least one parameter"),))
    if update.url and update.twiml:
        raise InvalidRequest(faults=(Fault("/twiml", "url_and_twiml", "must not be given together with url"),))
    return update
