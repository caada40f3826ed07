"""A forged callback costs no query: Callgate first checks the format of the signature and its own tag in the URL."""

import asyncio
import base64
import os
import string
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
import pytest
from sqlalchemy import text
from twilio.request_validator import RequestValidator

from app.calls.callback_urls import CallbackUrls
from app.calls.ids import lowest_call_id_at
from app.security.keyring import Keyring
from tests.support.callbacks import PUBLIC_URL
from tests.support.clients import http_client
from tests.support.gateway import SECRET_KEY, Gateway, Tenant, running_gateway, settings_for
from tests.support.upstream import Upstream, created, running_upstream

FOREIGN = Keyring([os.urandom(32)])
OTHER_CALL = UUID("01a20722-82cb-7520-b5df-0e45ebf88f42")
SIGNED = "RSOYDt4T1cUTdK1PDd93/VVr8B8="
"""A signature in the right format that was made with an unknown auth token."""


@pytest.fixture(scope="module")
async def gateway(database_url: str) -> AsyncIterator[Gateway]:
    async with running_gateway(settings_for(database_url, public_url=PUBLIC_URL)) as running:
        yield running


@dataclass
class LiveCall:
    """A call that has started, and the path of the URL that Twilio got for the call's callbacks."""

    tenant: Tenant
    id: str
    path: str

    @property
    def bare_path(self) -> str:
        return self.path.partition("?")[0]

    async def send(self, url: str, *, path: str | None = None, token: str | None = None, signature: str | None = None) -> int:
        return (await self.send_fully(url, path=path, token=token, signature=signature)).status_code

    async def send_fully(
        self, url: str, *, path: str | None = None, token: str | None = None, signature: str | None = None
    ) -> httpx.Response:
        """Sends a callback to the gateway at `url`. Signs it like Twilio, or with `token`, or sends `signature` instead."""
        path = path or self.path
        fields = {"CallSid": "CA" + "1" * 32, "AccountSid": self.tenant.account_sid, "CallStatus": "ringing"}
        validator = RequestValidator(token or self.tenant.auth_token)
        signed = validator.compute_signature(PUBLIC_URL + path, fields) if signature is None else signature
        async with http_client(base_url=url) as twilio:
            return await twilio.post(path, data=fields, headers={"X-Twilio-Signature": signed})


async def _place(tenant: Tenant, upstream: Upstream) -> LiveCall:
    call_id = (await tenant.create()).json()["id"]
    url = dict(upstream.posts[-1].form)["StatusCallback"].partition("#")[0]
    return LiveCall(tenant, call_id, url.removeprefix(PUBLIC_URL))


@pytest.fixture
async def live(gateway: Gateway) -> AsyncIterator[LiveCall]:
    async with running_upstream(created()) as upstream:
        yield await _place(await gateway.add_tenant(upstream.url), upstream)


@asynccontextmanager
async def _tables_locked(gateway: Gateway) -> AsyncIterator[None]:
    """Locks the tables of calls, accounts, credentials and upgrades: queries on them wait until the block ends."""
    async with gateway.database.begin() as session:
        await session.execute(text("LOCK TABLE call, twilio_account, twilio_credential, upgrade IN ACCESS EXCLUSIVE MODE"))
        yield


FORGERIES: dict[str, Callable[[LiveCall, Gateway], Awaitable[int]]] = {
    "unsigned": lambda live, gateway: live.send(gateway.url, signature=""),
    "no signature's form": lambda live, gateway: live.send(gateway.url, signature="A" * 28),
    "an empty tag": lambda live, gateway: live.send(gateway.url, path=f"{live.bare_path}?tag="),
    "no tag's form": lambda live, gateway: live.send(gateway.url, path=f"{live.bare_path}?a=1&tag=%00"),
    "a damaged tag": lambda live, gateway: live.send(gateway.url, path=live.path[:-1] + ("A" if live.path[-1] != "A" else "E")),
    "a tag of other spelling": lambda live, gateway: live.send(gateway.url, path=live.path[:-1] + _next_digit(live.path[-1])),
    "another's tag": lambda live, gateway: live.send(gateway.url, path=f"{live.bare_path}?tag={_tag(FOREIGN, UUID(live.id))}"),
    "another call's tag": lambda live, gateway: live.send(gateway.url, path=live.path.replace(live.id, str(OTHER_CALL))),
}


def _next_digit(digit: str) -> str:
    """Returns the base64 digit after `digit`.

    As the last digit of a text, both differ only in an unused bit, which lenient decoders ignore.
    """
    digits = string.ascii_uppercase + string.ascii_lowercase + string.digits
    return digits[digits.index(digit) + 1]


def _tag(keyring: Keyring, call_id: UUID) -> str:
    return CallbackUrls("", keyring).callback_url_of_call(call_id, OTHER_CALL).partition("=")[2]


@pytest.mark.parametrize("ask", FORGERIES.values(), ids=FORGERIES.keys())
async def test_a_forged_callback_is_refused_without_a_query(
    gateway: Gateway, live: LiveCall, ask: Callable[[LiveCall, Gateway], Awaitable[int]]
) -> None:
    async with _tables_locked(gateway):
        assert await ask(live, gateway) == 403
    assert [event["type"] for event in await live.tenant.events(live.id)] == ["call.pending", "call.started"]


async def test_a_wrong_signature_is_refused_without_a_query_if_the_tokens_are_cached(gateway: Gateway, live: LiveCall) -> None:
    assert await live.send(gateway.url) == 204
    async with _tables_locked(gateway):
        assert await live.send(gateway.url, token="wrong") == 403


async def test_an_unknown_call_and_a_wrong_signature_get_the_same_answer(gateway: Gateway, live: LiveCall) -> None:
    wrong = [
        await live.send_fully(gateway.url, signature=SIGNED),
        await live.send_fully(gateway.url, path=live.bare_path),
        await live.send_fully(gateway.url, path=f"/callbacks/twilio/{OTHER_CALL}"),
        await live.send_fully(gateway.url, path=f"/callbacks/twilio/{OTHER_CALL}?{live.path.partition('?')[2]}"),
    ]
    answers = [answer.json() for answer in wrong]
    for one in answers:
        del one["instance"], one["request_id"]
    assert {answer.status_code for answer in wrong} == {403}
    assert answers == answers[:1] * len(answers)


async def test_tenants_of_one_account_cannot_sign_for_each_others_calls(gateway: Gateway) -> None:
    async with running_upstream(created(), created(sid="CA" + "2" * 32)) as upstream:
        first = await gateway.add_tenant(upstream.url)
        second = await gateway.add_tenant(with_account=False)
        await gateway.tenants.add_credential(
            second.id, account_sid=first.account_sid, secret=first.auth_token, key_sid=None, base_url=upstream.url
        )
        theirs, own = await _place(first, upstream), await _place(second, upstream)
        stolen = theirs.bare_path + "?" + own.path.partition("?")[2]
        assert await theirs.send(gateway.url, path=stolen) == 403
        assert await theirs.send(gateway.url) == 204


async def test_a_callback_for_a_deleted_record_is_answered_404(gateway: Gateway, live: LiveCall) -> None:
    async with gateway.database.begin() as session:
        await session.execute(text("DELETE FROM call WHERE id = :id"), {"id": live.id})
    assert await live.send(gateway.url) == 404


async def test_tags_stay_valid_during_a_key_rotation_until_their_key_is_removed(gateway: Gateway, database_url: str) -> None:
    newer = base64.b64encode(os.urandom(32)).decode()
    async with running_upstream(created()) as upstream:
        live = await _place(await gateway.add_tenant(upstream.url), upstream)
        for keys, answered in ((f"{newer},{SECRET_KEY}", 204), (newer, 403)):
            settings = settings_for(database_url, public_url=PUBLIC_URL, secret_keys=keys)
            async with running_gateway(settings) as rotated:
                assert await live.send(rotated.url) == answered, keys


async def test_fields_of_the_url_are_stored_without_the_tag(gateway: Gateway, live: LiveCall) -> None:
    path = f"{live.path}&CallSid=CA{'1' * 32}&AccountSid={live.tenant.account_sid}&CallStatus=ringing"
    signature = RequestValidator(live.tenant.auth_token).compute_signature(PUBLIC_URL + path, {})
    async with http_client(base_url=gateway.url) as twilio:
        assert (await twilio.get(path, headers={"X-Twilio-Signature": signature})).status_code == 204
    (kept,) = [event["data"] for event in await live.tenant.events(live.id) if event["type"] == "call.callback"]
    assert kept.keys() == {"CallSid", "AccountSid", "CallStatus"}


@pytest.mark.parametrize(
    ("upgraded", "answered"),
    [
        (None, 403),
        (timedelta(hours=-1), 204),
        (timedelta(days=2), 403),  # placed after the roll-out, by a version that makes tags
    ],
    ids=["never upgraded", "placed around the upgrade", "placed later"],
)
async def test_a_url_without_a_tag_is_accepted_for_a_call_placed_around_the_upgrade(
    database_url: str, upgraded: timedelta | None, answered: int
) -> None:
    """Covers upgrades before and after the call: `upgraded` is the time from the upgrade to the call. None means no upgrade."""
    async with _upgraded_gateway(database_url, upgraded) as gateway, running_upstream(created()) as upstream:
        live = await _place(await gateway.add_tenant(upstream.url), upstream)
        assert await live.send(gateway.url, path=live.bare_path, token="wrong") == 403
        assert await live.send(gateway.url, path=live.bare_path) == answered
        nobodys = f"/callbacks/twilio/{OTHER_CALL}"
        assert await live.send(gateway.url, path=nobodys) == 403


async def test_a_url_without_a_tag_is_refused_without_a_query_long_after_the_upgrade(database_url: str) -> None:
    async with _upgraded_gateway(database_url, timedelta(days=5)) as gateway, running_upstream(created()) as upstream:
        live = await _place(await gateway.add_tenant(upstream.url), upstream)
        before = lowest_call_id_at(datetime.now(UTC) - timedelta(days=5, hours=1))
        assert await live.send(gateway.url, path=live.bare_path) == 403
        async with _tables_locked(gateway):
            assert await live.send(gateway.url, path=f"/callbacks/twilio/{before}") == 403


@asynccontextmanager
async def _upgraded_gateway(database_url: str, ago: timedelta | None) -> AsyncIterator[Gateway]:
    """Runs a gateway whose database was upgraded this long `ago`. None means that it never had the previous version."""
    async with running_gateway(settings_for(database_url, public_url=PUBLIC_URL)) as gateway:
        async with gateway.database.begin() as session:
            await session.execute(text("DELETE FROM upgrade"))
            if ago is not None:
                row = {"at": datetime.now(UTC) - ago}
                await session.execute(text("INSERT INTO upgrade (name, at) VALUES ('callback_tags', :at)"), row)
        yield gateway


async def test_forged_callbacks_are_answered_while_all_tables_are_locked(gateway: Gateway, live: LiveCall) -> None:
    async with _tables_locked(gateway):
        answers = await asyncio.gather(*(live.send(gateway.url, path=live.bare_path + "?tag=x") for _ in range(50)))
    assert set(answers) == {403}
