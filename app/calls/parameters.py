"""Pydantic models of the requests that create or change a call: Twilio's parameters in snake_case, and Callgate's own.

Twilio documents its parameters at https://www.twilio.com/docs/voice/api/call-resource. A test compares their names with those
of the installed `twilio` package. Rules about several parameters of a creation are in app/calls/creation/validation.py.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StrictBool,
)
from typing_extensions import TypeAliasType

from app.calls.parameter_types import (
    BooleanText,
    CallbackUrl,
    HttpMethod,
    HttpUrl,
    MachineDetection,
    ParameterText,
    ProgressEvents,
    RecordingChannels,
    RecordingEvents,
    RecordingTrack,
    RedialStatuses,
    Secret,
    Trim,
    require_at_most_five_passports,
)
from app.http.times import Timestamp
from app.scheduling.schedule import MAX_REDIAL_PAUSE, Priority
from app.security.redaction import mask_userinfo
from app.tenants.names import RESOURCE_NAME_PATTERN
from app.twilio.schemas import ACCOUNT_SID_PATTERN, SECRET_PARAMETERS


class CallParameters(BaseModel):
    """Twilio's parameters of a call. Parsing is strict: `"60"` is not a number, and unknown members are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    to: ParameterText = Field(
        description="Whom to call: a SIP URI (`sip:kate@example.com`), an E.164 number or `client:name`. "
        "SIP headers are appended to the URI, percent-encoded (`?X-hatchkey=4815162342`)."
    )
    from_: ParameterText = Field(
        alias="from",
        max_length=255,
        description="For a SIP call the user part of the From header: letters, digits and `+-_.` only. "
        "For a phone number: an E.164 number that the account owns or has verified.",
    )
    url: HttpUrl | None = Field(None, description="The URL from which Twilio fetches the TwiML when the call is answered.")
    twiml: ParameterText | None = Field(
        None, max_length=4000, description="The TwiML itself. Twilio ignores it if `url` is given."
    )
    application_sid: str | None = Field(
        None,
        pattern=r"^AP[0-9a-fA-F]{32}$",
        description="A TwiML application that supplies URLs and callbacks.",
    )
    method: HttpMethod | None = Field(None, description="How `url` is fetched; POST by default.")
    fallback_url: HttpUrl | None = Field(None, description="The URL that Twilio fetches if `url` fails.")
    fallback_method: HttpMethod | None = Field(None, description="How `fallback_url` is fetched; POST by default.")
    status_callback: HttpUrl | None = Field(
        None,
        description="The URL that receives the call's events, from Callgate if it has a public URL, else from Twilio.",
    )
    status_callback_event: ProgressEvents | None = Field(
        None,
        description="The events that are sent to `status_callback`; only `completed` by default. `settled` is not one of "
        "Twilio's: it says how the creation ended, and Callgate always sends it itself.",
    )
    status_callback_method: HttpMethod | None = Field(None, description="POST by default.")
    send_digits: str | None = Field(
        None,
        min_length=1,
        max_length=32,
        pattern=r"^[0-9A-D#*wW]+$",
        description="DTMF after the answer: `0-9 A-D # *`, `w` waits half a second, `W` one.",
    )
    timeout: int | None = Field(None, ge=1, le=600, description="Seconds to ring before `no-answer`; 60 by default.")
    time_limit: int | None = Field(None, ge=1, description="The maximum duration of the call in seconds.")
    record: bool | None = Field(None, description="Record the call; false by default.")
    recording_channels: RecordingChannels | None = Field(None, description="`mono` by default.")
    recording_track: RecordingTrack | None = Field(None, description="`both` by default.")
    recording_status_callback: CallbackUrl | None = Field(None, description="The URL that receives the recording's events.")
    recording_status_callback_method: HttpMethod | None = Field(None, description="POST by default.")
    recording_status_callback_event: RecordingEvents | None = Field(None, description="`completed` by default.")
    recording_configuration_id: ParameterText | None = Field(None, description="The id of a recording configuration.")
    trim: Trim | None = Field(None, description="`trim-silence` by default.")
    sip_auth_username: ParameterText | None = Field(
        None, description="The user name for the digest authentication of the SIP endpoint."
    )
    sip_auth_password: Secret | None = Field(
        None, description="The password for `sip_auth_username`. Never stored, logged or shown."
    )
    caller_id: ParameterText | None = Field(None, description="An E.164 number or `name@company.com` that made this call.")
    machine_detection: MachineDetection | None = Field(
        None, description="Answering machine detection. It is off if `send_digits` is given."
    )
    machine_detection_timeout: int | None = Field(None, ge=1, description="Seconds; 30 by default.")
    machine_detection_speech_threshold: int | None = Field(None, ge=1000, le=6000, description="ms; 2400 by default.")
    machine_detection_speech_end_threshold: int | None = Field(None, ge=500, le=5000, description="ms; 1200 by default.")
    machine_detection_silence_timeout: int | None = Field(None, ge=2000, le=10_000, description="ms; 5000 by default.")
    async_amd: StrictBool | BooleanText | None = Field(
        None, description="Detect during the call; by default the call waits for the result."
    )
    async_amd_status_callback: CallbackUrl | None = Field(None, description="The URL that receives the result of detection.")
    async_amd_status_callback_method: HttpMethod | None = Field(None, description="POST by default.")
    byoc: str | None = Field(
        None,
        pattern=r"^BY[0-9a-fA-F]{32}$",
        description="A BYOC trunk; ignored unless `to` is a phone number.",
    )
    call_reason: ParameterText | None = Field(
        None, description="The reason of the call that is shown to the callee (branded calling)."
    )
    call_token: Secret | None = Field(
        None, description="The token of an inbound call that is forwarded. Never stored, logged or shown."
    )
    client_notification_url: HttpUrl | None = Field(None, description="The URL for push notifications to `client:` targets.")
    passports: Annotated[ParameterText, AfterValidator(require_at_most_five_passports)] | None = Field(
        None, description="SHAKEN PASSporTs in base64, at most 5, separated by commas."
    )

    def parameters_for_twilio(self) -> dict[str, Any]:
        """Returns every parameter that is not None, with secrets in clear text. Use it only for the request to Twilio."""
        return {
            name: value.get_secret_value() if isinstance(value, SecretStr) else value
            for name, value in self._given_parameters().items()
        }

    def parameters_for_record(self) -> dict[str, Any]:
        """Returns the parameters to store and show. Secrets are left out.

        User names and passwords in URLs are masked, and so are SIP user names and passwords in TwiML.
        """
        return {
            name: mask_userinfo(value) if isinstance(value, str) else value
            for name, value in self._given_parameters().items()
            if name not in SECRET_PARAMETERS
        }

    def _given_parameters(self) -> dict[str, Any]:
        """Returns the parameters that are not None. The keys are Twilio's names in snake_case."""
        values = vars(self)
        return {name: value for attribute, name in _TWILIO_PARAMETERS if (value := values[attribute]) is not None}


# Pairs of an attribute and its parameter's name. The attributes that subclasses add are not Twilio's parameters.
_TWILIO_PARAMETERS = [(attribute, field.alias or attribute) for attribute, field in CallParameters.model_fields.items()]


class Redial(BaseModel):
    """Says when a scheduled call is dialled again after its end.

    Each redial has a record of its own, whose `redial_of` is the id of the call that ended.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    on: RedialStatuses = Field(description="Statuses after which it is dialled again: `busy`, `no-answer` or both.")
    times: int = Field(ge=1, le=10, description="How often it is dialled again at most, whatever the statuses were.")
    after_s: int = Field(ge=1, le=int(MAX_REDIAL_PAUSE.total_seconds()), description="How many seconds after the end.")


class CallRequest(CallParameters):
    """The request for a call: every parameter of Twilio's *create call*, the account, a SIP credential and a schedule."""

    account_sid: str | None = Field(
        None,
        pattern=f"^{ACCOUNT_SID_PATTERN.pattern}$",
        description="The tenant's Twilio account that pays; by default its oldest with an active credential.",
    )
    sip_credential: str | None = Field(
        None,
        pattern=f"^{RESOURCE_NAME_PATTERN}$",
        description="The name of a SIP credential that an operator stored for the tenant, instead of `sip_auth_username` and "
        "`sip_auth_password`.",
    )
    not_before: Timestamp | None = Field(
        None, description="Schedules the call: it is not dialled before this time. At once by default."
    )
    ring_by: Timestamp | None = Field(
        None,
        description="Schedules the call: it is dialled before this time or not at all. At most 7 days ahead; by default 15 "
        "minutes after `not_before`, or what the queue says.",
    )
    priority: Priority | None = Field(
        None,
        description="Schedules the call: of the account's waiting calls, urgent ones are dialled first, and bulk last.",
    )
    queue: str | None = Field(
        None,
        pattern=f"^{RESOURCE_NAME_PATTERN}$",
        description="Schedules the call in this queue, which has its own pace, hours and pause.",
    )
    time_zone: str | None = Field(
        None,
        description="The callee's time zone (IANA), in which the hours of the queue or tenant are read. By default that of the "
        "phone number.",
        examples=["Europe/Berlin"],
    )

    redial: Redial | None = Field(
        None,
        description="Dials a scheduled call again after it ended `busy` or `no-answer`. The time from `not_before` to "
        "`ring_by` is as long as it was for the first call.",
    )

    @property
    def is_scheduled(self) -> bool:
        """Whether a worker dials the call later. The response to the request then cannot say whether the call was started."""
        return not (self.not_before is None and self.ring_by is None and self.priority is None and self.queue is None)

    def parameters_for_record(self) -> dict[str, Any]:
        record = super().parameters_for_record()
        if self.sip_credential is not None:
            record["sip_credential"] = self.sip_credential
        if self.redial is not None:
            record["redial"] = self.redial.model_dump()
        return record


EndStatus = TypeAliasType("EndStatus", Literal["canceled", "completed"])


class CallUpdate(BaseModel):
    """A change to a call that has not ended. The fields are the nine parameters of Twilio's *update call*."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    status: EndStatus | None = Field(
        None,
        description="`canceled` ends a call that is queued or ringing, but not one in progress. `completed` ends both.",
    )
    url: HttpUrl | None = Field(None, description="The URL from which Twilio fetches the TwiML that continues the call.")
    twiml: ParameterText | None = Field(None, max_length=4000, description="The TwiML itself, instead of `url`.")
    method: HttpMethod | None = Field(None, description="How `url` is fetched; POST by default.")
    fallback_url: HttpUrl | None = Field(None, description="The URL that Twilio fetches if `url` fails.")
    fallback_method: HttpMethod | None = Field(None, description="How `fallback_url` is fetched; POST by default.")
    status_callback: HttpUrl | None = Field(None, description="The URL that receives the call's events from now on.")
    status_callback_method: HttpMethod | None = Field(None, description="POST by default.")
    time_limit: int | None = Field(None, ge=1, description="The maximum duration of the call in seconds.")

    @property
    def only_ends_call(self) -> bool:
        """Whether the update does nothing but end the call. Such an update can be repeated without harm."""
        return self.given_parameters().keys() == {"status"}

    def parameters_for_twilio(self) -> dict[str, Any]:
        """Returns the parameters for Twilio without those of the status callback.

        `status_callbacks_for_update` returns the parameters of the status callback.
        """
        return self.model_dump(exclude_none=True, exclude={"status_callback", "status_callback_method"})

    def given_parameters(self) -> dict[str, Any]:
        """Returns every parameter that is not None, including those of the status callback."""
        return self.model_dump(exclude_none=True)

    def parameters_for_event(self) -> dict[str, Any]:
        """Returns the data of the update's event: names of all given parameters, and the values of `status` and `time_limit`.

        The values of other parameters are left out, because they may be secret or personal.
        """
        data = {"parameters": sorted(self.given_parameters()), "status": self.status, "time_limit": self.time_limit}
        return {name: value for name, value in data.items() if value is not None}
