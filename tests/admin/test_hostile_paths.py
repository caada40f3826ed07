"""A value that Postgres cannot store or Python cannot compute is reported as the client's error, and never as a 500."""

import pytest

from tests.admin.conftest import Admin
from tests.support.gateway import Gateway


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/admin/tenants/%00"),
        ("DELETE", "/v1/admin/tenants/{tenant}/keys/%00"),
        ("DELETE", "/v1/admin/tenants/{tenant}/sip-credentials/%00"),
        ("PATCH", "/v1/admin/tenants/{tenant}/accounts/%00"),
        ("DELETE", "/v1/admin/tenants/{tenant}/accounts/%00/credentials/01a20722-9f00-7c3e-9d4b-3f6f0c7b2a11"),
        ("GET", "/v1/admin/audit-events?since=0001-01-01T00:00:00%2B14:00"),
        ("GET", "/v1/admin/audit-events?until=9999-12-31T23:59:59-14:00"),
    ],
)
async def test_it_is_refused_as_invalid(gateway: Gateway, operator: Admin, method: str, path: str) -> None:
    tenant = await gateway.add_tenant()
    body = b"{}" if method == "PATCH" else None
    headers = {"Content-Type": "application/json"}
    response = await operator.http.request(method, path.format(tenant=tenant.id), content=body, headers=headers)
    assert (response.status_code, response.json()["type"]) == (422, "urn:callgate:problem:invalid-request")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/calls?created_after=0001-01-01T00:00:00%2B14:00"),
        ("GET", "/v1/calls/%00"),
        ("PATCH", "/v1/calls/%00"),
        ("DELETE", "/v1/calls/%00"),
        ("GET", "/v1/calls/%00/events"),
        ("GET", "/v1/calls/{call}/recordings/%00"),
        ("GET", "/v1/queues/%00"),
        ("POST", "/v1/queues/%00/cancel"),
        ("GET", "/v1/queues?cursor=AA"),
        ("GET", "/2010-04-01/Accounts/%00/Calls.json"),
        ("GET", "/2010-04-01/Accounts/{account}/Calls/%00.json"),
    ],
)
async def test_callers_get_no_500(gateway: Gateway, method: str, path: str) -> None:
    tenant = await gateway.add_tenant()
    call = (await tenant.create(priority="normal")).json()["id"]
    json = {"status": "canceled"} if method == "PATCH" else None
    at = path.format(call=call, account=tenant.account_sid)
    response = await tenant.http.request(method, at, json=json)
    assert 400 <= response.status_code < 500, response.text
