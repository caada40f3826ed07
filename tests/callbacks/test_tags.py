"""Who is not Twilio costs nothing: the signature's form and our tag are checked before anything is read."""

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
from app.calls.ids import first_id_at
from app.security.keyring import Keyring
from tests.support.callbacks import PUBLIC_URL
from tests.support.gateway import SECRET_KEY, Gateway, Tenant, running_gateway, settings_for
from tests.support.upstream import Upstream, created, running_upstream

STRANGER = Keyring([os.urandom(32)])
OTHER_CALL = UUID("01a20722-82cb-7520-b5df-0e45ebf88f42")
SIGNED = "RSOYDt4T1cUTdK1PDd93/VVr8B8="
"""Of the right form, and by nobody."""


@pytest.fixture(scope="module")
async def gateway(database_url: str) -> AsyncIterator[Gateway]:
    async with running_gateway(settings_for(database_url, public_url=PUBLIC_URL)) as running:
        yield running


@dataclass
class Live:
    """A started call, and the path that Twilio was given for its callbacks."""

    tenant: Tenant
    id: str
    path: str

    @property
    def bare_path(self) -> str:
        return self.path.partition("?")[0]

    async def told(self, url: str, *, path: str | None = None, token: str | None = None, signature: str | None = None) -> int:
        return (await self.told_fully(url, path=path, token=token, signature=signature)).status_code

    async def told_fully(
        self, url: str, *, path: str | None = None, token: str | None = None, signature: str | None = None
    ) -> httpx.Response:
        """What the gateway at `url` answers. Signed as by Twilio over this path unless a token or signature says otherwise."""
        path = path or self.path
        fields = {"CallSid": "CA" + "1" * 32, "AccountSid": self.tenant.account_sid, "CallStatus": "ringing"}
        validator = RequestValidator(token or self.tenant.auth_token)
        signed = validator.compute_signature(PUBLIC_URL + path, fields) if signature is None else signature
        async with httpx.AsyncClient(base_url=url, timeout=5) as twilio:
            return await twilio.post(path, data=fields, headers={"X-Twilio-Signature": signed})


async def _place(tenant: Tenant, upstream: Upstream) -> Live:
    call_id = (await tenant.create()).json()["id"]
    url = dict(upstream.posts[-1].form)["StatusCallback"].partition("#")[0]
    return Live(tenant, call_id, url.removeprefix(PUBLIC_URL))


@pytest.fixture
async def live(gateway: Gateway) -> AsyncIterator[Live]:
    async with running_upstream(created()) as upstream:
        yield await _place(await gateway.add_tenant(upstream.url), upstream)


@asynccontextmanager
async def _nothing_can_be_read(gateway: Gateway) -> AsyncIterator[None]:
    """Whoever asks Postgres for a call, an account or an upgrade waits until the end of the block."""
    async with gateway.database.begin() as session:
        await session.execute(text("LOCK TABLE call, twilio_account, twilio_credential, upgrade IN ACCESS EXCLUSIVE MODE"))
        yield


STRANGERS: dict[str, Callable[[Live, Gateway], Awaitable[int]]] = {
    "unsigned": lambda live, gateway: live.told(gateway.url, signature=""),
    "no signature's form": lambda live, gateway: live.told(gateway.url, signature="A" * 28),
    "an empty tag": lambda live, gateway: live.told(gateway.url, path=f"{live.bare_path}?tag="),
    "no tag's form": lambda live, gateway: live.told(gateway.url, path=f"{live.bare_path}?a=1&tag=%00"),
    "a damaged tag": lambda live, gateway: live.told(gateway.url, path=live.path[:-1] + ("A" if live.path[-1] != "A" else "E")),
    "a tag of other spelling": lambda live, gateway: live.told(gateway.url, path=live.path[:-1] + _next_digit(live.path[-1])),
    "another's tag": lambda live, gateway: live.told(gateway.url, path=f"{live.bare_path}?tag={_tag(STRANGER, UUID(live.id))}"),
    "another call's tag": lambda live, gateway: live.told(gateway.url, path=live.path.replace(live.id, str(OTHER_CALL))),
}


def _next_digit(digit: str) -> str:
    """Of base64: as the last one it says the same to a lenient reader, for it differs in a bit that is not used."""
    digits = string.ascii_uppercase + string.ascii_lowercase + string.digits
    return digits[digits.index(digit) + 1]


def _tag(keyring: Keyring, call_id: UUID) -> str:
    return CallbackUrls("", keyring).url_of(call_id, OTHER_CALL).partition("=")[2]


@pytest.mark.parametrize("ask", STRANGERS.values(), ids=STRANGERS.keys())
async def test_a_stranger_is_refused_before_postgres_is_asked(
    gateway: Gateway, live: Live, ask: Callable[[Live, Gateway], Awaitable[int]]
) -> None:
    async with _nothing_can_be_read(gateway):
        assert await ask(live, gateway) == 403
    assert [event["type"] for event in await live.tenant.events(live.id)] == ["call.pending", "call.started"]


async def test_a_wrong_signature_costs_no_statement_once_the_tokens_are_known(gateway: Gateway, live: Live) -> None:
    assert await live.told(gateway.url) == 204
    async with _nothing_can_be_read(gateway):
        assert await live.told(gateway.url, token="wrong") == 403


async def test_an_unknown_call_and_a_wrong_signature_are_answered_alike(gateway: Gateway, live: Live) -> None:
    wrong = [
        await live.told_fully(gateway.url, signature=SIGNED),
        await live.told_fully(gateway.url, path=live.bare_path),
        await live.told_fully(gateway.url, path=f"/callbacks/twilio/{OTHER_CALL}"),
        await live.told_fully(gateway.url, path=f"/callbacks/twilio/{OTHER_CALL}?{live.path.partition('?')[2]}"),
    ]
    told = [answer.json() for answer in wrong]
    for one in told:
        del one["instance"], one["request_id"]
    assert {answer.status_code for answer in wrong} == {403}
    assert told == told[:1] * len(told)


async def test_tenants_of_one_account_do_not_sign_for_each_others_calls(gateway: Gateway) -> None:
    async with running_upstream(created(), created(sid="CA" + "2" * 32)) as upstream:
        first = await gateway.add_tenant(upstream.url)
        second = await gateway.add_tenant(with_account=False)
        await gateway.tenants.add_credential(
            second.id, account_sid=first.account_sid, secret=first.auth_token, key_sid=None, base_url=upstream.url
        )
        theirs, own = await _place(first, upstream), await _place(second, upstream)
        stolen = theirs.bare_path + "?" + own.path.partition("?")[2]
        assert await theirs.told(gateway.url, path=stolen) == 403
        assert await theirs.told(gateway.url) == 204


async def test_a_callback_of_a_record_that_is_gone_is_answered_404(gateway: Gateway, live: Live) -> None:
    async with gateway.database.begin() as session:
        await session.execute(text("DELETE FROM call WHERE id = :id"), {"id": live.id})
    assert await live.told(gateway.url) == 404


async def test_calls_in_flight_outlive_the_rotation_of_keys_until_their_key_is_removed(
    gateway: Gateway, database_url: str
) -> None:
    newer = base64.b64encode(os.urandom(32)).decode()
    async with running_upstream(created()) as upstream:
        live = await _place(await gateway.add_tenant(upstream.url), upstream)
        for keys, answered in ((f"{newer},{SECRET_KEY}", 204), (newer, 403)):
            settings = settings_for(database_url, public_url=PUBLIC_URL, secret_keys=keys)
            async with running_gateway(settings) as rotated:
                assert await live.told(rotated.url) == answered, keys


async def test_fields_in_the_url_are_kept_without_the_tag(gateway: Gateway, live: Live) -> None:
    path = f"{live.path}&CallSid=CA{'1' * 32}&AccountSid={live.tenant.account_sid}&CallStatus=ringing"
    signature = RequestValidator(live.tenant.auth_token).compute_signature(PUBLIC_URL + path, {})
    async with httpx.AsyncClient(base_url=gateway.url) as twilio:
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
async def test_a_url_without_a_tag_is_taken_for_a_call_of_the_upgrade(
    database_url: str, upgraded: timedelta | None, answered: int
) -> None:
    """`upgraded` is before the call was placed; the call's own time is now."""
    async with _upgraded(database_url, upgraded) as gateway, running_upstream(created()) as upstream:
        live = await _place(await gateway.add_tenant(upstream.url), upstream)
        assert await live.told(gateway.url, path=live.bare_path, token="wrong") == 403
        assert await live.told(gateway.url, path=live.bare_path) == answered
        nobodys = f"/callbacks/twilio/{OTHER_CALL}"
        assert await live.told(gateway.url, path=nobodys) == 403


async def test_a_url_without_a_tag_is_refused_unread_once_no_such_call_can_live(database_url: str) -> None:
    async with _upgraded(database_url, timedelta(days=5)) as gateway, running_upstream(created()) as upstream:
        live = await _place(await gateway.add_tenant(upstream.url), upstream)
        before = first_id_at(datetime.now(UTC) - timedelta(days=5, hours=1))
        assert await live.told(gateway.url, path=live.bare_path) == 403
        async with _nothing_can_be_read(gateway):
            assert await live.told(gateway.url, path=f"/callbacks/twilio/{before}") == 403


@asynccontextmanager
async def _upgraded(database_url: str, ago: timedelta | None) -> AsyncIterator[Gateway]:
    """A process that has started since; `ago` None: nobody ever ran the version before."""
    async with running_gateway(settings_for(database_url, public_url=PUBLIC_URL)) as gateway:
        async with gateway.database.begin() as session:
            await session.execute(text("DELETE FROM upgrade"))
            if ago is not None:
                row = {"at": datetime.now(UTC) - ago}
                await session.execute(text("INSERT INTO upgrade (name, at) VALUES ('callback_tags', :at)"), row)
        yield gateway


async def test_an_attack_of_strangers_is_answered_while_nothing_can_be_read(gateway: Gateway, live: Live) -> None:
    async with _nothing_can_be_read(gateway):
        answers = await asyncio.gather(*(live.told(gateway.url, path=live.bare_path + "?tag=x") for _ in range(50)))
    assert set(answers) == {403}
