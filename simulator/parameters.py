"""Validates the parameters of CreateCall and UpdateCall, with Twilio's error codes and in Twilio's order.

Every parameter of CreateCall is accepted. Unknown parameters are ignored. Twilio ignores them too (warning 20001).
"""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from simulator.destination import validate_from, validate_to
from simulator.errors import TwilioError
from simulator.form import Form
from simulator.lifecycle import Status
from simulator.subscription import CallbackSubscription

DEFAULT_TIMEOUT_S = 60
MAX_TIMEOUT_S = 600
MAX_TWIML_CHARACTERS = 4000
MAX_SIP_AUTH_CHARACTERS = 255

APPLICATION_SID_PATTERN = re.compile(r"AP[0-9a-fA-F]{32}")
SEND_DIGITS_PATTERN = re.compile(r"[0-9A-D#*wW]{1,32}")
# The characters that a quoted string of a digest answer may contain without escapes (RFC 7616, RFC 9110 §5.6.4).
SIP_AUTH_USERNAME_PATTERN = re.compile(r"[!#-\[\]-~]+")
SIP_AUTH_PASSWORD_PATTERN = re.compile(r"[ -~]+")

RECORDING_AND_AMD_METHOD_PARAMETERS = ("RecordingStatusCallbackMethod", "AsyncAmdStatusCallbackMethod")
RECORDING_AND_AMD_URL_PARAMETERS = ("RecordingStatusCallback", "AsyncAmdStatusCallback", "ClientNotificationUrl")
# Twilio ignores these parameters for a call with an ApplicationSid, because the application has settings of its own for them.
METHOD_PARAMETERS_REPLACED_BY_APPLICATION = ("Method", "FallbackMethod", "StatusCallbackMethod")
URL_PARAMETERS_REPLACED_BY_APPLICATION = ("FallbackUrl", "StatusCallback")


@dataclass(frozen=True, slots=True)
class CallParameters:
    to: str
    from_: str
    timeout_s: int
    time_limit_s: int | None
    answered_by: str | None
    """The result of answering machine detection; None if it was not requested."""
    form: dict[str, list[str]]
    """All fields of the form. The values of secret fields are masked."""
    subscription: CallbackSubscription | None

    @property
    def is_recorded(self) -> bool:
        return self.form.get("Record", ["false"])[0].lower() == "true"


@dataclass(frozen=True, slots=True)
class UpdateParameters:
    status: Status | None
    redirects: bool
    time_limit_s: int | None
    callback_url: str | None
    callback_method: str | None


def validate_creation(form: Form) -> CallParameters:
    to = form.get("To")
    if to is None:
        raise TwilioError(21201)
    caller = form.get("From")
    if caller is None:
        raise TwilioError(21213)
    _validate_twiml_parameters(form)
    validate_to(to.strip())
    validate_from(caller, to=to.strip())
    _validate_sip_auth(form)
    send_digits = form.get("SendDigits")
    if send_digits is not None and not SEND_DIGITS_PATTERN.fullmatch(send_digits):
        raise TwilioError(21206, send_digits)
    # Twilio does no machine detection with SendDigits.
    detects_machine = form.get("MachineDetection") is not None and send_digits is None
    return CallParameters(
        to=to.strip(),
        from_=caller,
        timeout_s=_parse_timeout(form),
        time_limit_s=_parse_time_limit(form),
        answered_by="human" if detects_machine else None,
        form=form.masked(),
        # Twilio ignores StatusCallback and its method and events for a call with an ApplicationSid.
        subscription=CallbackSubscription.parse(form) if form.get("ApplicationSid") is None else None,
    )


def validate_update(form: Form) -> UpdateParameters:
    status = form.get("Status")
    if status not in (None, Status.CANCELED, Status.COMPLETED):
        raise TwilioError(20422, "Status")
    _validate_twiml_source(form)
    _validate_parameters_replaced_by_application(form)
    return UpdateParameters(
        status=Status(status) if status else None,
        redirects=form.get("Url") is not None or form.get("Twiml") is not None,
        time_limit_s=_parse_time_limit(form),
        callback_url=form.get("StatusCallback"),
        callback_method=form.get("StatusCallbackMethod"),
    )


def _validate_twiml_parameters(form: Form) -> None:
    """Raises Twilio's error if Url, Twiml and ApplicationSid are all missing, or if one of them is invalid.

    Also validates the other parameters that are URLs or HTTP methods, except those that Twilio ignores with an ApplicationSid.
    """
    application_sid = form.get("ApplicationSid")
    if application_sid is None:
        if form.get("Url") is None and form.get("Twiml") is None:
            raise TwilioError(21205, message="Url parameter is required.")
        _validate_parameters_replaced_by_application(form)
    elif not APPLICATION_SID_PATTERN.fullmatch(application_sid):
        raise TwilioError(21218, application_sid)
    _validate_twiml_source(form)
    validate_methods(form, RECORDING_AND_AMD_METHOD_PARAMETERS)
    validate_urls(form, RECORDING_AND_AMD_URL_PARAMETERS)


def _validate_twiml_source(form: Form) -> None:
    url, twiml = form.get("Url"), form.get("Twiml")
    if url is not None and not is_absolute_url(url):
        raise TwilioError(21205, url)
    if twiml is not None and len(twiml) > MAX_TWIML_CHARACTERS:
        raise TwilioError(32018)


def _validate_parameters_replaced_by_application(form: Form) -> None:
    validate_methods(form, METHOD_PARAMETERS_REPLACED_BY_APPLICATION)
    validate_urls(form, URL_PARAMETERS_REPLACED_BY_APPLICATION)
    require_host_without_underscore(form, "StatusCallback")


def validate_methods(form: Form, names: tuple[str, ...]) -> None:
    for name in names:
        if form.get(name) not in (None, "GET", "POST"):
            raise TwilioError(21209, name)


def validate_urls(form: Form, names: tuple[str, ...]) -> None:
    for name in names:
        url = form.get(name)
        if url is not None and not is_absolute_url(url):
            raise TwilioError(21200, name)


def require_host_without_underscore(form: Form, name: str) -> None:
    """Raises error 21200 if the host of a parameter's URL has an underscore, which Twilio's specification does not permit."""
    url = form.get(name)
    if url is not None and "_" in (urlsplit(url).hostname or ""):
        raise TwilioError(21200, name)


def is_absolute_url(url: str, schemes: tuple[str, ...] = ("http", "https")) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in schemes and bool(parts.hostname) and not re.search(r"\s", url)


def _validate_sip_auth(form: Form) -> None:
    username, password = form.get("SipAuthUsername"), form.get("SipAuthPassword")
    if username is not None:
        if len(username) > MAX_SIP_AUTH_CHARACTERS:
            raise TwilioError(21221)
        if not SIP_AUTH_USERNAME_PATTERN.fullmatch(username):
            raise TwilioError(21222)
        if password is None:
            raise TwilioError(21225)
    if password is not None:
        if len(password) > MAX_SIP_AUTH_CHARACTERS:
            raise TwilioError(21223)
        if not SIP_AUTH_PASSWORD_PATTERN.fullmatch(password):
            raise TwilioError(21224)


def _parse_timeout(form: Form) -> int:
    timeout = form.get("Timeout")
    if timeout is None:
        return DEFAULT_TIMEOUT_S
    if not _is_number(timeout) or not 0 < int(timeout) <= MAX_TIMEOUT_S:
        raise TwilioError(21208, timeout)
    return int(timeout)


def _parse_time_limit(form: Form) -> int | None:
    time_limit = form.get("TimeLimit")
    if time_limit is None:
        return None
    if not _is_number(time_limit) or int(time_limit) == 0:
        raise TwilioError(20422, "TimeLimit")
    return int(time_limit)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,9}", text) is not None
