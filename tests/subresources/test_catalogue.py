"""The catalogue has every parameter of the specification's 24 operations and of the installed `twilio` package."""

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
from twilio.rest.api.v2010.account.call import CallList, notification, payment, recording, siprec, stream, transcription
from twilio.rest.api.v2010.account.call import user_defined_message as message
from twilio.rest.api.v2010.account.call import user_defined_message_subscription as subscription

from app.calls.parameters import CallParameters, CallUpdate
from app.compat.listing import LIST_PARAMETERS
from app.compat.resource import RESOURCE_FIELDS
from app.subresources.members import members_model_of
from app.twilio.schemas import form_field_name
from app.twilio.subresources import IDEMPOTENCY_KEY_NAME, SUBRESOURCE_OPERATIONS, SubresourceOperation

SPECIFICATION: list[dict[str, Any]] = json.loads((Path(__file__).parent.parent / "data" / "twilio_operations.json").read_text())
_OF_CALLS = {
    ("POST", "/Calls.json"): {form_field_name(field.alias or name) for name, field in CallParameters.model_fields.items()},
    ("GET", "/Calls.json"): set(LIST_PARAMETERS),
    ("POST", "/Calls/{Sid}.json"): {form_field_name(name) for name in CallUpdate.model_fields},
    ("GET", "/Calls/{Sid}.json"): set(),
    ("DELETE", "/Calls/{Sid}.json"): set(),
}
_KINDS = {"text": "string", "integer": "integer", "number": "number", "boolean": "boolean", "json": None, "pairs": "string"}


def _path(operation: SubresourceOperation) -> str:
    one = "/{Sid}" if operation.targets_item else ""
    return f"/Calls/{{CallSid}}/{operation.subresource.segment}{one}.json"


_CATALOGUE = {(operation.method, _path(operation)): operation for operation in SUBRESOURCE_OPERATIONS}


def test_all_24_operations_exist() -> None:
    specified = {(operation["method"], operation["path"]) for operation in SPECIFICATION}
    assert len(specified) == 24
    assert specified == _OF_CALLS.keys() | _CATALOGUE.keys()
    assert len(SUBRESOURCE_OPERATIONS) == len(_CATALOGUE) == 19


@pytest.mark.parametrize("specified", SPECIFICATION, ids=lambda operation: f"{operation['method']} {operation['path']}")
def test_no_parameter_of_the_specification_is_missing(specified: dict[str, Any]) -> None:
    known = _OF_CALLS.get((specified["method"], specified["path"]))
    if known is None:
        known = {name for parameter in _operation(specified).parameters for name in parameter.field_names()}
    assert specified["parameters"].keys() <= known


@pytest.mark.parametrize("specified", [one for one in SPECIFICATION if "CallSid" in one["path"]], ids=lambda one: one["path"])
def test_types_enums_and_statuses_are_those_of_the_specification(specified: dict[str, Any]) -> None:
    operation = _operation(specified)
    assert operation.status in specified["statuses"]
    assert set(operation.subresource.fields) >= set(specified.get("fields", []))
    for parameter in operation.parameters:
        for name in parameter.field_names():
            fact = specified["parameters"].get(name)
            if fact is None:  # newer than the specification
                continue
            assert fact.get("type") == ("array" if parameter.is_list else _KINDS[parameter.kind]), name
            assert parameter.is_list or list(parameter.choices) == fact.get("enum", []), name
            assert parameter.required == (fact.get("required", False) and name != IDEMPOTENCY_KEY_NAME), name


def test_a_call_has_the_fields_of_the_specification() -> None:
    for operation in SPECIFICATION:
        if operation["path"].startswith("/Calls/{Sid}") and "fields" in operation:
            assert sorted(RESOURCE_FIELDS) == operation["fields"]


@pytest.mark.parametrize(
    ("list_of", "method", "segment", "action"),
    [
        (notification.NotificationList, "page", "Notifications", "list"),
        (recording.RecordingList, "page", "Recordings", "list"),
        (recording.RecordingList, "create", "Recordings", "create"),
        (recording.RecordingContext, "update", "Recordings", "update"),
        (payment.PaymentList, "create", "Payments", "create"),
        (payment.PaymentContext, "update", "Payments", "update"),
        (transcription.TranscriptionList, "create", "Transcriptions", "create"),
        (transcription.TranscriptionContext, "update", "Transcriptions", "update"),
        (siprec.SiprecList, "create", "Siprec", "create"),
        (siprec.SiprecContext, "update", "Siprec", "update"),
        (stream.StreamList, "create", "Streams", "create"),
        (stream.StreamContext, "update", "Streams", "update"),
        (message.UserDefinedMessageList, "create", "UserDefinedMessages", "create"),
        (subscription.UserDefinedMessageSubscriptionList, "create", "UserDefinedMessageSubscriptions", "create"),
    ],
)
def test_no_parameter_of_the_installed_twilio_package_is_missing(list_of: Any, method: str, segment: str, action: str) -> None:
    operation = next(one for one in SUBRESOURCE_OPERATIONS if (one.subresource.segment, one.action) == (segment, action))
    known = {re.sub(r"[<>.]", "", name).lower() for parameter in operation.parameters for name in parameter.field_names()}
    given = {
        re.sub(r"_(before|after)$", "", name).replace("page_number", "page").replace("_", "")
        for name in inspect.signature(getattr(list_of, method)).parameters
        if name != "self"
    }
    assert given <= known
    assert not inspect.signature(CallList.create).parameters.keys() - {"self", "from_"} - CallParameters.model_fields.keys()


def test_names_of_members_map_back_to_twilios() -> None:
    for operation in SUBRESOURCE_OPERATIONS:
        assert set(members_model_of(operation).model_fields) == {parameter.member_name for parameter in operation.parameters}
        for parameter in operation.parameters:
            if parameter.name[-1] not in "<>" and parameter.kind != "pairs":
                assert form_field_name(parameter.member_name) == parameter.name


def _operation(specified: dict[str, Any]) -> SubresourceOperation:
    return _CATALOGUE[specified["method"], specified["path"]]
