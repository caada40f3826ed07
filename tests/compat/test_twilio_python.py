"""The unmodified `twilio` package, both clients, against gateway and simulator on real sockets."""

import pytest
from twilio.base.exceptions import TwilioRestException

from tests.support.gateway import Tenant
from tests.support.twilio_sdk import Sdk

BASIC = {"to": "sip:kate@example.com", "from_": "Jack", "url": "http://www.example.com/sipdial.xml"}


async def test_a_call_is_created_and_fetched(sdk: Sdk, tenant: Tenant) -> None:
    call = await sdk.run(lambda twilio: twilio.calls.create(**BASIC))
    assert (call.status, call.direction, call.account_sid) == ("queued", "outbound-api", tenant.account_sid)
    fetched = await sdk.asynchronous.calls(call.sid).fetch_async()
    assert fetched.sid == call.sid


async def test_a_refusal_carries_twilios_code(sdk: Sdk) -> None:
    with pytest.raises(TwilioRestException) as refused:
        await sdk.run(lambda twilio: twilio.calls.create(to="sip:kate@example.com", from_="Jack Smith", twiml="<Response/>"))
    assert (refused.value.status, refused.value.code) == (400, 21212)
