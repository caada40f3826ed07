"""Normalizes parameter values that Twilio accepts but Callgate's own API /v1 rejects. docs/migrating.md lists these values.

If Twilio ignores a value and reports a warning, the value is left out, and the same warning is returned.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, get_args

from app.calls.parameter_types import MachineDetection, RecordingEvent
from app.calls.phone_numbers import parse_phone_number
from app.compat.error_codes import INVALID_EVENT_CODE, INVALID_MACHINE_DETECTION_CODE, INVALID_RECORDING_EVENT_CODE
from app.errors import FieldError
from app.tenants.callback_settings import TWILIO_EVENTS

_RECORDING_EVENTS: Final[tuple[str, ...]] = get_args(RecordingEvent.__value__)
_MACHINE_DETECTION_VALUES = {name.lower(): name for name in get_args(MachineDetection.__value__)}
_SIP_PREFIXES = ("sip:", "sips:")


class NormalizedParameters(NamedTuple):
    """Parameters with the values that Callgate's own API /v1 accepts, and warnings with Twilio's codes."""

    parameters: dict[str, Any]
    warnings: Sequence[FieldError]


def normalize_parameters(parameters: Mapping[str, Any]) -> NormalizedParameters:
    """Normalizes the values of *create call* parameters for Callgate's own API /v1. The parameters have the names of /v1."""
    normalized, warnings = dict(parameters), list[FieldError]()
    for name, known, code in (
        ("status_callback_event", TWILIO_EVENTS, INVALID_EVENT_CODE),
        ("recording_status_callback_event", _RECORDING_EVENTS, INVALID_RECORDING_EVENT_CODE),
    ):
        if name in normalized:
            warnings += _keep_known_events(normalized, name, known, code)
    if "machine_detection" in normalized:
        warnings += _normalize_machine_detection(normalized)
    if not str(normalized.get("to", "")).lower().startswith(_SIP_PREFIXES):
        for name in ("to", "from"):
            if name in normalized:
                normalized[name] = parse_phone_number(normalized[name]) or normalized[name]
    return NormalizedParameters(normalized, warnings)


def _keep_known_events(normalized: dict[str, Any], name: str, known: Sequence[str], code: int) -> Iterator[FieldError]:
    """Removes unknown and repeated events from the list in the parameter `name`. Removes the parameter if no event is left.

    Yields a warning with Twilio's `code` if there are unknown events, which Twilio ignores.
    """
    given = list(dict.fromkeys(normalized.pop(name)))
    kept = [event for event in given if event in known]
    if kept:
        normalized[name] = kept
    if len(kept) < len(given):
        text = f"Twilio ignores every event but {', '.join(known)}."
        if known is TWILIO_EVENTS:
            text += " The event for the end of a call is completed, whatever its final status."
        yield FieldError(f"/{name}", str(code), text)


def _normalize_machine_detection(normalized: dict[str, Any]) -> Iterator[FieldError]:
    """Corrects upper and lower case in `machine_detection`. Removes the value `Disable` and yields a warning for it.

    Twilio does not document `Disable`.
    """
    lower = normalized["machine_detection"].lower()
    if lower == "disable":
        del normalized["machine_detection"]
        text = "Twilio documents Enable and DetectMessageEnd only; Disable counts as not given."
        yield FieldError("/machine_detection", str(INVALID_MACHINE_DETECTION_CODE), text)
    elif lower in _MACHINE_DETECTION_VALUES:
        normalized["machine_detection"] = _MACHINE_DETECTION_VALUES[lower]
