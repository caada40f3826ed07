"""Tests how many SQL statements each page sends. A page that sends one statement for each row of a list fails."""

import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

import pytest

from app.console.router import ROUTERS
from app.tenants.caller import COMMAND_LINE_CALLER
from app.workloads.service_accounts import ServiceAccount
from tests.console.conftest import LogIn, Person
from tests.console.rows import add_delivery
from tests.console.test_queue_store import add_queue
from tests.support.gateway import Gateway, Tenant
from tests.support.statements import recorded_statements

# A transaction has others, which begin it, end it, or limit its time.
READS = re.compile(r"\s*(SELECT|WITH)\b")
OF_SESSION = re.compile(r"\bconsole_session\b")
UNKNOWN = "/console/{path:path}"
NOT_SET_UP = frozenset({"/console/oidc/login", "/console/oidc/callback"})
PUBLIC = NOT_SET_UP | {"/console/login", "/console/link/{link}", "/console/static/{digest}/{asset}"}
# The addresses of forms. They redirect to the page that has the form.
FORM_ADDRESSES = (
    "/console/calls/{id_or_sid}/reveal",
    "/console/calls/{id_or_sid}/end",
    "/console/deliveries/{tenant_id}/replay",
    "/console/tenants/{tenant_id}/accounts",
    "/console/tenants/{tenant_id}/accounts/{account_sid}/credentials",
    "/console/tenants/{tenant_id}/keys",
)
STATEMENTS = {
    **dict.fromkeys((*PUBLIC, *FORM_ADDRESSES, UNKNOWN, "/console", "/console/session", "/console/sip"), 0),
    # What refreshes itself, and the figures.
    "/console/now": 2,
    # Each count is a statement, because one that takes too long must not cost the other.
    **dict.fromkeys([f"/console/queues/{{tenant_id}}/{{name}}{part}" for part in ("", "/live", "/cancel")], 3),
}
"""The number of statements of a page besides those that read the session. Pages that are not listed send one."""
QUERIES = {
    "/console/calls": (
        "q=key:k",
        "q=%2B14155550123",
        "execution=started&status=completed",
        "problem=none-found",
        "queue=queue-1",
        "tenant={tenant_id}&queue=queue-1",
    ),
    "/console/deliveries": ("tenant={tenant_id}", "tenant={tenant_id}&state=given_up"),
    "/console/queues": ("tenant={tenant_id}", "after_tenant=a&after=b"),
    "/console/audit": ("tenant={tenant_id}&action=key.create",),
    "/console/tenants": ("after=a",),
    "/console/now": ("range=7d&tenant={tenant_id}",),
}
"""Query strings with which a page sends other statements than without a query."""


def pages() -> Iterator[tuple[str, str]]:
    """Yields the path template of each page, such as `/console/tenants/{tenant_id}`, once for each of its query strings."""
    for path in sorted({route.path for router in ROUTERS for route in router.routes if "GET" in route.methods}):  # type: ignore[attr-defined]
        yield from ((path, query) for query in ("", *QUERIES.get(path, ())))


@dataclass(frozen=True)
class Filled:
    """A tenant that has several rows of everything that pages show, and a person who sees them."""

    person: Person
    tenant: Tenant
    named: Mapping[str, str]
    """The values of the parameters in path templates, by name."""
    sent: Mapping[str, Sequence[str]]
    """The statements that were sent, by the X-Request-Id of their request."""

    async def statements_of(self, path: str) -> tuple[int, list[str]]:
        """Returns the page's status, and the SELECT statements that were sent for it."""
        request_id = uuid4().hex
        answer = await self.person.http.get(path, headers={"X-Request-Id": request_id})
        return answer.status_code, [statement for statement in self.sent[request_id] if READS.match(statement)]


async def add_some_of_everything(gateway: Gateway, tenant: Tenant) -> UUID:
    """Adds three queues with calls and deliveries, three API keys, accounts and more. Returns the id of one delivery."""
    for number in range(3):
        account = ServiceAccount("https://cluster.example.com", tenant.id, f"dialler-{number}")
        await gateway.tenants.create_workload(tenant.id, account, creator=COMMAND_LINE_CALLER)
        await gateway.tenants.create_sip_credential(tenant.id, f"trunk-{number}", username="kate", password="s3cret")
        await gateway.tenants.create_key(tenant.id, name=None, creator=COMMAND_LINE_CALLER)
        account_sid = f"AC{uuid4().hex}"
        for key_sid in (None, f"SK{uuid4().hex}"):
            secret = {"account_sid": account_sid, "secret": "s3cret"}
            await gateway.tenants.add_credential(tenant.id, **secret, key_sid=key_sid, base_url=None)
        calls = await add_queue(gateway, tenant, f"queue-{number}", pace={"max_concurrent": 5})
        for _ in range(3):
            await calls.waiting()
            await add_delivery(gateway, tenant.id, state="gave_up", attempts=3)
            delivery_id = await add_delivery(gateway, tenant.id, attempts=1)
    return delivery_id


@pytest.fixture
async def filled(gateway: Gateway, tenant: Tenant, log_in: LogIn) -> AsyncIterator[Filled]:
    delivery_id = await add_some_of_everything(gateway, tenant)
    call = (await tenant.create()).json()
    named = {"tenant_id": tenant.id, "name": "queue-1", "id_or_sid": call["id"], "digest": "0" * 16, "asset": "console.js"}
    named |= {"link": "none", "path": "nothing", "account_sid": tenant.account_sid}
    async with recorded_statements(gateway.served_database) as sent:
        yield Filled(await log_in(), tenant, named | {"delivery_id": str(delivery_id)}, sent)


async def test_every_page_reads_with_one_statement_besides_its_session(filled: Filled) -> None:
    expected, seen = {}, {}
    for path, query in pages():
        address = (f"{path}?{query}" if query else path).replace(":path}", "}").format(**filled.named)
        # The first time on a connection, asyncpg also reads what types the columns have, and keeps that.
        await filled.statements_of(address)
        status, statements = await filled.statements_of(address)
        assert status in (200, 303) or path in NOT_SET_UP | {UNKNOWN}, address
        of_session = [statement for statement in statements if OF_SESSION.search(statement)]
        expected[path, query] = (0 if path in PUBLIC else 1, STATEMENTS.get(path, 1))
        seen[path, query] = (len(of_session), len(statements) - len(of_session))
    assert seen == expected


async def test_statements_that_sqlalchemy_sends_are_counted_too(filled: Filled) -> None:
    request_id = uuid4().hex
    path = f"/v1/calls/{filled.named['id_or_sid']}/events"
    await filled.tenant.http.get(path, headers={"X-Request-Id": request_id})
    assert any("call_event" in statement for statement in filled.sent[request_id])
