"""Tests each operation with calls of the tenant, of another tenant, and of nobody. A refused request never reaches Twilio."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import httpx
import pytest

from app.twilio.subresources import SUBRESOURCE_OPERATIONS, SubresourceOperation
from tests.support.clients import http_client
from tests.support.gateway import Gateway, Tenant
from tests.support.upstream import Upstream, answer, call_resource, running_upstream

SID = "RE" + "e" * 32
SECRET = {"sid": SID, "content": "of the owner alone"}
NOBODYS = "AC" + "f" * 32


@dataclass(frozen=True)
class World:
    owner: Tenant
    intruder: Tenant
    upstream: Upstream
    call_id: str
    call_sid: str


@pytest.fixture(scope="module")
async def world(gateway: Gateway) -> AsyncIterator[World]:
    sid = "CA" + "c" * 32
    async with running_upstream(answer(201, call_resource(sid)), answer(200, SECRET)) as upstream:
        owner, intruder = await gateway.add_tenant(upstream.url), await gateway.add_tenant(upstream.url)
        record = (await owner.create()).json()
        yield World(owner, intruder, upstream, record["id"], record["sid"])


@pytest.fixture
async def bare(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(base_url=gateway.url) as http:
        yield http


def below(operation: SubresourceOperation) -> str:
    return operation.subresource.segment + (f"/{SID}" if operation.targets_item else "") + ".json"


def below_v1(operation: SubresourceOperation) -> str:
    name = "twilio_events" if operation.subresource.segment == "Events" else operation.subresource.snake_case_name
    return name + (f"/{SID}" if operation.targets_item else "")


def accounts(world: World) -> Iterator[tuple[str, str, str, str, int]]:
    """Yields refused requests: user, key, account in the path, call, and the expected status."""
    owner, intruder = world.owner, world.intruder
    unknown_call = "CA" + "0" * 32
    yield intruder.account_sid, intruder.key, intruder.account_sid, world.call_sid, 404
    yield intruder.account_sid, intruder.key, intruder.account_sid, unknown_call, 404
    yield owner.account_sid, owner.key, owner.account_sid, unknown_call, 404
    yield intruder.account_sid, intruder.key, owner.account_sid, world.call_sid, 404
    yield owner.account_sid, intruder.key, owner.account_sid, world.call_sid, 404
    yield owner.account_sid, owner.key, intruder.account_sid, world.call_sid, 404
    yield NOBODYS, owner.key, NOBODYS, world.call_sid, 404
    yield owner.account_sid, owner.auth_token, owner.account_sid, world.call_sid, 401
    yield owner.account_sid, "", owner.account_sid, world.call_sid, 401


@pytest.mark.parametrize("operation", SUBRESOURCE_OPERATIONS, ids=lambda one: f"{one.action} {one.subresource.segment}")
async def test_no_operation_works_for_another_tenant(
    world: World, bare: httpx.AsyncClient, operation: SubresourceOperation
) -> None:
    form = {"Status": "stopped"} if operation.method == "POST" else None
    asked = len(world.upstream.received)
    for user, key, account_sid, call_sid, status in accounts(world):
        path = f"/2010-04-01/Accounts/{account_sid}/Calls/{call_sid}/{below(operation)}"
        refused = await bare.request(operation.method, path, auth=(user, key), data=form)
        assert refused.status_code == status, (user, account_sid, call_sid)
        assert SECRET["content"] not in refused.text
        assert refused.json()["code"] == {404: 20404, 401: 20003}[status]
    method = "PATCH" if operation.action == "update" else operation.method
    for call in (world.call_id, world.call_sid):
        refused = await world.intruder.http.request(method, f"/v1/calls/{call}/{below_v1(operation)}", json={})
        assert (refused.status_code, refused.json()["type"]) == (404, "urn:callgate:problem:call-not-found")
    assert len(world.upstream.received) == asked
    path = f"/2010-04-01/Accounts/{world.owner.account_sid}/Calls/{world.call_sid}/{below(operation)}"
    own = await bare.request(operation.method, path, auth=(world.owner.account_sid, world.owner.key), data=form)
    assert own.json() == SECRET if operation.action != "delete" else own.is_success
    assert [(one.method, one.path) for one in world.upstream.received[asked:]] == [(operation.method, path)]
    assert world.upstream.received[-1].credentials == (world.owner.account_sid, world.owner.auth_token)


@pytest.mark.parametrize("suffix", [".json", ".mp3", ".wav"])
async def test_a_recording_without_its_call_is_shown_only_to_the_calls_tenant(gateway: Gateway, suffix: str) -> None:
    """The tenants share an account, so Twilio itself would show the recording to both."""
    sid = "CA" + suffix.strip(".").encode().hex().rjust(32, "0")
    recording = {"sid": SID, "call_sid": sid, "content": SECRET["content"]}
    async with running_upstream(answer(201, call_resource(sid)), answer(200, recording)) as upstream:
        owner, intruder = await gateway.add_tenant(upstream.url), await gateway.add_tenant(with_account=False)
        await gateway.tenants.add_credential(
            intruder.id, account_sid=owner.account_sid, secret="shared", key_sid=None, base_url=upstream.url
        )
        gateway.invalidate_cache()
        await owner.create()
        path = f"/2010-04-01/Accounts/{owner.account_sid}/Recordings/{SID}{suffix}"
        own = await owner.http.get(path)
        assert own.json() == recording
        refused = await intruder.http.get(path)
        assert (refused.status_code, refused.json()["code"]) == (404, 20404)
        assert SECRET["content"] not in refused.text
        assert not any(one.path.endswith((".mp3", ".wav")) for one in upstream.received if one.credentials[1] == "shared")


@pytest.mark.parametrize("sid", ["%2e%2e", "..%2f..%2fCalls", "x%3fPageSize=1", "a%00b", "%0d%0aX: y"])
async def test_no_name_reaches_a_path_outside_the_call(world: World, sid: str) -> None:
    before = len(world.upstream.received)
    answer_ = await world.owner.http.patch(f"/v1/calls/{world.call_id}/streams/{sid}", json={"status": "stopped"})
    below_call = f"/2010-04-01/Accounts/{world.owner.account_sid}/Calls/{world.call_sid}/Streams/"
    assert answer_.status_code in (200, 404)
    for one in world.upstream.received[before:]:
        assert one.path.startswith(below_call)
        assert not {"?", " ", "\r"} & set(one.path)
        assert "/" not in one.path.removeprefix(below_call)


@pytest.mark.parametrize(
    "below",
    [
        *(f"Recordings/REbogus{suffix}" for suffix in ("", ".json", ".mp3", ".wav")),
        *(f"Calls/{{call}}/Recordings/REbogus{suffix}" for suffix in (".mp3", ".wav")),
        f"Calls/{{call}}/Recordings/{'x' * 300}.json",
    ],
)
async def test_a_malformed_sid_is_not_found_on_twilios_paths(world: World, below: str) -> None:
    asked = len(world.upstream.received)
    path = f"/2010-04-01/Accounts/{world.owner.account_sid}/{below.format(call=world.call_sid)}"
    refused = await world.owner.http.get(path, headers={"Accept": "application/json"})
    assert (refused.status_code, refused.json()["code"]) == (404, 20404)
    assert refused.json()["message"] == f"The requested resource {path} was not found"
    assert len(world.upstream.received) == asked
