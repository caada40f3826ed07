"""A new API key never gets more scopes than the one who creates it has."""

import dataclasses
from uuid import uuid4

import pytest

from app.errors import CallgateError, OperatorKeyRequired, ScopeRequired
from app.tenants.caller import COMMAND_LINE_CALLER, Caller, OperatorCaller
from app.tenants.scopes import ALL_SCOPES, DEFAULT_SCOPES, Scope
from tests.support.gateway import Gateway

CALL, READ, ADMIN = Scope
OWN, OTHER, OPERATOR = "own", "other", None


def of_tenant(*scopes: Scope) -> Caller:
    return Caller(OWN, uuid4(), "cgk_own", False, frozenset(scopes))


def operator(*scopes: Scope) -> OperatorCaller:
    return OperatorCaller(uuid4(), "cgk_operator", frozenset(scopes))


@pytest.mark.parametrize(
    ("creator", "owner", "scopes", "error"),
    [
        (COMMAND_LINE_CALLER, OPERATOR, ALL_SCOPES, None),
        (COMMAND_LINE_CALLER, OWN, ALL_SCOPES, None),
        (of_tenant(CALL, READ, ADMIN), OWN, ALL_SCOPES, None),
        (of_tenant(READ, ADMIN), OWN, {READ}, None),
        (of_tenant(READ, ADMIN), OWN, {READ, CALL}, ScopeRequired.of("call")),
        (of_tenant(READ, ADMIN), OWN, None, ScopeRequired.of("call")),
        (of_tenant(CALL, READ), OWN, {ADMIN}, ScopeRequired.of("admin")),
        (of_tenant(CALL, READ, ADMIN), OTHER, {READ}, OperatorKeyRequired()),
        (of_tenant(CALL, READ, ADMIN), OPERATOR, {READ}, OperatorKeyRequired()),
        (operator(ADMIN), OWN, ALL_SCOPES, None),
        (operator(READ), OWN, {CALL}, ScopeRequired.of("call")),
        (operator(ADMIN), OPERATOR, {ADMIN}, None),
        (operator(ADMIN), OPERATOR, {READ}, ScopeRequired.of("read")),
        (operator(READ, ADMIN), OPERATOR, None, ScopeRequired.of("call")),
    ],
)
async def test_nobody_gives_more_than_they_have(
    gateway: Gateway,
    creator: Caller | OperatorCaller,
    owner: str | None,
    scopes: set[Scope] | None,
    error: CallgateError | None,
) -> None:
    own, other = await gateway.add_tenant(), await gateway.add_tenant()
    tenant_id = {OWN: own.id, OTHER: other.id, OPERATOR: None}[owner]
    if isinstance(creator, Caller):
        creator = dataclasses.replace(creator, tenant_id=own.id)
    before = await gateway.tenants.list_keys(tenant_id)
    if error is None:
        row, _ = await gateway.tenants.create_key(tenant_id, name=None, scopes=scopes, creator=creator)
        assert set(row.scopes) == (scopes or DEFAULT_SCOPES)
    else:
        with pytest.raises(type(error)) as refused:
            await gateway.tenants.create_key(tenant_id, name=None, scopes=scopes, creator=creator)
        assert refused.value.scope == error.scope
        assert await gateway.tenants.list_keys(tenant_id) == before


async def test_an_operators_key_acts_for_no_tenant(gateway: Gateway) -> None:
    tenant = await gateway.add_tenant()
    _, key = await gateway.tenants.create_key(None, name=None, creator=COMMAND_LINE_CALLER)
    for method, path in (("POST", "/v1/calls"), ("GET", "/v1/calls")):
        refused = await tenant.http.request(method, path, json={}, headers={"Authorization": f"Bearer {key}"})
        assert (refused.status_code, refused.json()["type"]) == (403, "urn:callgate:problem:tenant-key-required")
    path = f"/2010-04-01/Accounts/{tenant.account_sid}/Calls.json"
    refused = await tenant.http.post(path, headers={"Authorization": f"Bearer {key}"})
    assert (refused.status_code, refused.json()["code"]) == (403, 20403)
