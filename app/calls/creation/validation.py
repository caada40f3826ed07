"""Validates the request to create a call: reports all errors at once, and warnings.

Works on plain mappings, so that the same rules check JSON and Twilio's forms.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError

from app.calls.outbox import SETTLED_EVENT
from app.calls.parameter_types import refuse_too_many_userinfos_in_request
from app.calls.parameters import CallRequest
from app.calls.phone_numbers import E164_PATTERN, guess_phone_number
from app.errors import FieldError, InvalidRequest
from app.http.field_errors import field_errors_from
from app.sip import Finding, Severity, SipUri, check_from_parameter, check_sip_auth, has_escaped_control

_CLIENT_ADDRESS = re.compile(r"client:[^\s\x00-\x1f\x7f]{1,250}")

_IGNORED_WITH_APPLICATION = ("method", "fallback_url", "fallback_method")
_CALLBACKS_IGNORED_WITH_APPLICATION = ("status_callback", "status_callback_event", "status_callback_method")

_SIP_AUTH_PARAMETERS = ("sip_auth_username", "sip_auth_password")


@dataclass(frozen=True, slots=True)
class ValidCallRequest:
    """A valid request, and warnings about parameters that may not have the intended effect."""

    request: CallRequest
    warnings: tuple[FieldError, ...]

    def warnings_json(self, *more: FieldError) -> list[dict[str, Any]]:
        return [asdict(warning) for warning in (*self.warnings, *more)]


def validate_call(body: Mapping[str, Any]) -> ValidCallRequest:
    """Returns the valid request and its warnings. Raises InvalidRequest with every error.

    Error texts do not repeat values of the request, with one exception: a text may suggest a phone number in E.164 format.
    """
    request, errors = _parse_call_request(body)
    flagged = {error.pointer for error in errors}
    found = [*_address_findings(body), *_twiml_source_findings(body), *_sip_credential_findings(body)]
    if request is not None:
        errors += _schedule_errors(request)
    errors += [error for error, severity in found if severity is Severity.ERROR and error.pointer not in flagged]
    if request is None or errors:
        raise InvalidRequest(field_errors=tuple(errors))
    refuse_too_many_userinfos_in_request(vars(request).values())
    warnings = [error for error, severity in found if severity is not Severity.ERROR]
    return ValidCallRequest(request, (*warnings, *_ignored_parameter_warnings(request)))


def _parse_call_request(body: Mapping[str, Any]) -> tuple[CallRequest | None, list[FieldError]]:
    try:
        return CallRequest.model_validate(body), []
    except ValidationError as error:
        errors = field_errors_from(error)
        # A union (async_amd) reports one error for each of its types: one per pointer is enough.
        return None, list({error.pointer: error for error in reversed(errors)}.values())[::-1]


def _address_findings(body: Mapping[str, Any]) -> Iterator[tuple[FieldError, Severity]]:
    to, from_ = body.get("to"), body.get("from")
    if not isinstance(to, str) or not to:
        return
    if _is_number_or_client(to):
        if isinstance(from_, str) and not _is_number_or_client(from_):
            text = "must be an E.164 number such as +14155550100, or client:name, unless `to` is a SIP URI"
            yield FieldError("/from", "from_not_callable", text + _suggested_number_text(from_)), Severity.ERROR
        return
    if not to[:5].lower().startswith(("sip:", "sips:")):
        text = (
            "must be a SIP URI (sip:kate@example.com), an E.164 number (+14155550100) or client:name, and the name must have "
            "no escaped control characters"
        )
        yield FieldError("/to", "to_unknown_form", text + _suggested_number_text(to)), Severity.ERROR
        return
    yield from _as_field_errors("/to", SipUri.parse(to).findings)
    if isinstance(from_, str) and from_:
        yield from _as_field_errors("/from", check_from_parameter(from_))
    username, password = body.get("sip_auth_username"), body.get("sip_auth_password")
    auth = check_sip_auth(username if isinstance(username, str) else None, password if isinstance(password, str) else None)
    yield from _as_field_errors("/sip_auth_username", auth.username)
    yield from _as_field_errors("/sip_auth_password", auth.password)


def _is_number_or_client(text: str) -> bool:
    if _CLIENT_ADDRESS.fullmatch(text):
        # Parameters for the client may follow a `?`. Their values may have escaped line ends.
        return not has_escaped_control(text.partition("?")[0])
    return E164_PATTERN.fullmatch(text) is not None


def _suggested_number_text(text: str) -> str:
    number = guess_phone_number(text)
    return f". Write {number} if that is the number" if number else ""


def _as_field_errors(pointer: str, findings: tuple[Finding, ...]) -> Iterator[tuple[FieldError, Severity]]:
    for finding in findings:
        yield FieldError(pointer, finding.code, finding.detail), finding.severity


def _twiml_source_findings(body: Mapping[str, Any]) -> Iterator[tuple[FieldError, Severity]]:
    if all(body.get(name) is None for name in ("url", "twiml", "application_sid")):
        text = "one of url, twiml and application_sid is required: it says what happens once the call is answered"
        yield FieldError("/url", "missing", text), Severity.ERROR


def _sip_credential_findings(body: Mapping[str, Any]) -> Iterator[tuple[FieldError, Severity]]:
    if body.get("sip_credential") is None:
        return
    if given := [name for name in _SIP_AUTH_PARAMETERS if body.get(name) is not None]:
        text = f"must not be given together with {' and '.join(given)}: it names a stored user name and password"
        yield FieldError("/sip_credential", "sip_credential_and_sip_auth", text), Severity.ERROR


def _ignored_with_application(request: CallRequest) -> tuple[str, ...]:
    """Returns the names of the parameters that Twilio ignores, given or not, because `request` has an `application_sid`."""
    events = request.status_callback_event or ()
    if SETTLED_EVENT not in events:
        return *_IGNORED_WITH_APPLICATION, *_CALLBACKS_IGNORED_WITH_APPLICATION
    # Callgate uses URL and method for `settled`.
    return (*_IGNORED_WITH_APPLICATION, "status_callback_event") if len(events) > 1 else _IGNORED_WITH_APPLICATION


def _schedule_errors(request: CallRequest) -> Iterator[FieldError]:
    """Yields errors for `time_zone` and `redial` without a schedule, and for each secret of a scheduled call.

    Callgate does not store the secrets of a request, so a secret would be missing when the call is dialled.
    """
    if not request.is_scheduled:
        text = "is only for a scheduled call: add not_before, ring_by, priority or queue"
        for name in ("time_zone", "redial"):
            if getattr(request, name) is not None:
                yield FieldError(f"/{name}", "not_scheduled", text)
        return
    kept = request.parameters_for_record()
    for name, value in request.parameters_for_twilio().items():
        if kept.get(name) == value:
            continue
        advice = "use sip_credential instead" if name in _SIP_AUTH_PARAMETERS else "place the call at once instead"
        what = "has a user name or password that" if name in kept else "is a secret that"
        yield FieldError(f"/{name}", "secret_cannot_wait", f"{what} Callgate does not store for a scheduled call: {advice}")


def _ignored_parameter_warnings(request: CallRequest) -> Iterator[FieldError]:
    """Yields a warning for each parameter that Twilio accepts and ignores."""
    if request.url and request.twiml:
        yield FieldError("/twiml", "ignored", "Twilio uses url and ignores twiml when both are given")
    if request.application_sid:
        for name in _ignored_with_application(request):
            if getattr(request, name) is not None:
                yield FieldError(f"/{name}", "ignored", "Twilio ignores this when application_sid is given")
    if request.send_digits and request.machine_detection:
        yield FieldError("/machine_detection", "ignored", "Twilio switches machine detection off when send_digits is given")
    if request.byoc and not request.to.startswith("+"):
        yield FieldError("/byoc", "ignored", "Twilio ignores byoc unless `to` is a phone number")
    if not request.to[:4].lower().startswith("sip"):
        for name in (*_SIP_AUTH_PARAMETERS, "sip_credential"):
            if getattr(request, name) is not None:
                yield FieldError(f"/{name}", "ignored", "SIP credentials are used only when `to` is a SIP URI")
