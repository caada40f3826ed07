"""Places a call with the generated package `callgate_client`; run by tests/docs/test_generated_clients.py."""

import json
import os
import sys

import httpx
from callgate_client import AuthenticatedClient
from callgate_client.api.calls import create_call, list_calls
from callgate_client.models import CallPage, CallRecord, CallRequest, Execution, HttpMethod, Problem, UnknownOutcomeResponse

client = AuthenticatedClient(base_url=os.environ["GATEWAY_URL"], token=os.environ["API_KEY"])
request = CallRequest(to="sip:kate@example.com", from_="Jack", url="http://www.example.com/sipdial.xml")
with client:
    created = create_call.sync(client=client, body=request, idempotency_key="order-4711")
    replayed = create_call.sync_detailed(client=client, body=request, idempotency_key="order-4711")
    refused = create_call.sync(client=client, body=CallRequest(to="kate", from_="Jack", method=HttpMethod.GET))
    page = list_calls.sync(client=client, execution=Execution.STARTED, limit=1)

# The answer of a gateway that is stopped during the creation.
stopped = httpx.MockTransport(lambda _: httpx.Response(202, text=os.environ["UNKNOWN_OUTCOME"]))
with AuthenticatedClient(base_url="http://stopped", token="", httpx_args={"transport": stopped}) as client:
    unknown = create_call.sync(client=client, body=request)

assert isinstance(unknown, UnknownOutcomeResponse), unknown
assert unknown.execution == "unknown"
assert isinstance(created, CallRecord), created
assert replayed.headers["Idempotent-Replayed"] == "true"
assert isinstance(replayed.parsed, CallRecord)
assert replayed.parsed.id == created.id
assert isinstance(refused, Problem), refused
assert isinstance(page, CallPage), page
assert [call.id for call in page.calls] == [created.id]
result = {"execution": created.execution, "status": created.status, "sid": created.sid, "refused": refused.type_}
sys.stdout.write(json.dumps(result))
