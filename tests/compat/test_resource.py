"""Tests that a record is shown as Twilio's Call resource, even if all that Callgate knows of the call is from a callback."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from twilio.rest.api.v2010.account.call import CallInstance

from app.calls.models import Call
from app.compat.resource import RESOURCE_FIELDS, twilio_resource_of

ACCOUNT, SID = "AC" + "a" * 32, "CA" + "b" * 32


def call(**columns: Any) -> Call:
    return Call(account_sid=ACCOUNT, sid=SID, to="sip:kate@example.com", from_="Jack", **columns)


def test_a_call_known_only_from_a_callback_has_every_field_and_uri() -> None:
    resource = twilio_resource_of(call(status="initiated", direction="outbound-api"))
    assert list(resource) == list(RESOURCE_FIELDS)
    assert len(resource) == 26
    assert (resource["sid"], resource["account_sid"], resource["api_version"]) == (SID, ACCOUNT, "2010-04-01")
    assert (resource["to"], resource["from"]) == ("sip:kate@example.com", "Jack")
    assert resource["uri"] == f"/2010-04-01/Accounts/{ACCOUNT}/Calls/{SID}.json"
    assert resource["subresource_uris"]["siprec"] == f"/2010-04-01/Accounts/{ACCOUNT}/Calls/{SID}/Siprec.json"
    assert len(resource["subresource_uris"]) == 9
    # Only callbacks have the status `initiated`.
    assert resource["status"] == "queued"
    assert resource["price"] is None


def test_twilios_values_are_kept_unless_the_record_is_newer() -> None:
    raw = {"to": "+14155550100", "from": "sip:Jack@x", "trunk_sid": "", "status": "ringing", "annotation": None, "price": None}
    known = call(
        resource=raw,
        status="completed",
        price=Decimal("-0.00750"),
        duration=15,
        queue_time=0,
        end_time=datetime(2026, 11, 24, 9, 5, 3, tzinfo=UTC),
    )
    resource = twilio_resource_of(known)
    assert (resource["to"], resource["from"], resource["trunk_sid"]) == ("+14155550100", "sip:Jack@x", "")
    assert (resource["status"], resource["price"], resource["duration"]) == ("completed", "-0.00750", "15")
    assert resource["queue_time"] == "0"
    assert resource["end_time"] == "Tue, 24 Nov 2026 09:05:03 +0000"
    assert "annotation" not in resource


@pytest.mark.parametrize("field", RESOURCE_FIELDS)
def test_every_field_is_documented_by_twilio(field: str) -> None:
    instance = CallInstance(None, twilio_resource_of(call(status="queued")), account_sid=ACCOUNT)
    assert hasattr(instance, "_from" if field == "from" else field)
