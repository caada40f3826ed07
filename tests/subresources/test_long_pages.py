"""A page with 1,000 items arrives complete, however long the items are that Twilio allows."""

import json
from typing import Any

from app.sip.uri import ADDRESS_LENGTH_LIMIT, HEADERS_LENGTH_LIMIT
from app.twilio.call_list import CALL_LIST_PAGE_SIZE, MAX_PAGE_BYTES
from app.twilio.forwarding import MAX_JSON_BYTES
from tests.subresources.conftest import LiveCall
from tests.support.clients import http_client
from tests.support.gateway import Gateway, Tenant
from tests.support.upstream import answer, call_resource, running_upstream

MIB = 2**20
_HOST = "@example.com"
LONGEST_ADDRESS = f"sip:{'u' * (ADDRESS_LENGTH_LIMIT - 5 - len(_HOST))}{_HOST}?X-A={'v' * (HEADERS_LENGTH_LIMIT - 5)}"


async def _longest_resource(tenant: Tenant, simulator_url: str) -> dict[str, Any]:
    """Places a call to the longest address, and returns its resource as the simulator lists it."""
    placed = await tenant.create(to=LONGEST_ADDRESS)
    assert placed.status_code == 201, placed.text
    async with http_client(base_url=simulator_url, auth=(tenant.account_sid, "any")) as http:
        listed = await http.get(f"/2010-04-01/Accounts/{tenant.account_sid}/Calls.json", params={"PageSize": 1})
    (resource,) = listed.json()["calls"]
    assert resource["to"] == LONGEST_ADDRESS
    return dict(resource)


async def test_a_page_of_1000_legs_with_the_longest_addresses_is_complete(
    gateway: Gateway, tenant: Tenant, simulator_url: str
) -> None:
    """A leg that a call has started may also have a SIP address as its caller."""
    resource = await _longest_resource(tenant, simulator_url)
    addresses = dict.fromkeys(("to", "to_formatted", "from", "from_formatted"), LONGEST_ADDRESS)
    parent = call_resource()
    legs = [resource | addresses | {"sid": f"CA{n:032x}", "parent_call_sid": parent["sid"]} for n in range(CALL_LIST_PAGE_SIZE)]
    page = json.dumps({"calls": legs, "next_page_uri": None}).encode()
    assert 4 * MIB < len(page) < MAX_PAGE_BYTES
    async with running_upstream(answer(201, parent), answer(200, body=page)) as upstream:
        other = await gateway.add_tenant(upstream.url)
        assert (await other.create()).json()["sid"] == parent["sid"]
        listed = await other.http.get(
            f"/2010-04-01/Accounts/{other.account_sid}/Calls.json",
            params={"ParentCallSid": parent["sid"], "PageSize": CALL_LIST_PAGE_SIZE},
        )
    assert listed.status_code == 200, listed.text
    assert listed.json()["calls"] == legs


async def test_a_long_page_is_streamed_under_twilios_paths_and_refused_under_v1(call: LiveCall) -> None:
    """A notification has the TwiML to which it belongs, which may have 64 kB."""
    twiml = "<Response>" + "x" * 64_000
    for _ in range(MAX_JSON_BYTES // len(twiml) + 1):
        await call.add_notification(response_body=twiml)
    page = await call.tenant.http.get(f"{call.uri}/Notifications.json", params={"PageSize": 1000})
    assert page.status_code == 200
    assert len(page.content) > MAX_JSON_BYTES
    assert {each["response_body"] for each in page.json()["notifications"]} == {twiml}
    refused = await call.tenant.http.get(f"/v1/calls/{call.id}/notifications", params={"page_size": 1000})
    (fault,) = refused.json()["errors"]
    assert (refused.status_code, fault["pointer"], fault["code"]) == (422, "?page_size", "page_too_long")
