"""Status callbacks may go to internal host names if Callgate sends them, but not if Twilio sends them."""

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.support.callbacks import PUBLIC_URL
from tests.support.gateway import Gateway, Tenant, running_gateway, settings_for
from tests.support.upstream import answer, call_resource, created, running_upstream

INTERNAL = ["http://my_app:3000/hook", "http://hooks/progress", "http://my_app.shop.svc.cluster.local/hook", "http://_a_/"]
FORM = {"To": "sip:kate@example.com", "From": "Jack", "Twiml": "<Response/>"}


@pytest.fixture(scope="module")
async def delivering_gateway(database_url: str) -> AsyncIterator[Gateway]:
    """A gateway that receives Twilio's callbacks itself and may deliver to internal host names."""
    async with running_gateway(settings_for(database_url, public_url=PUBLIC_URL, delivery_allow="my_app,hooks")) as running:
        yield running


def calls(tenant: Tenant, rest: str = "") -> str:
    return f"/2010-04-01/Accounts/{tenant.account_sid}/Calls{rest}.json"


async def create_as_twilio(tenant: Tenant, **fields: str) -> httpx.Response:
    return await tenant.http.post(calls(tenant), data=FORM | fields)


@pytest.mark.parametrize("url", INTERNAL)
async def test_callgate_delivers_to_internal_names(delivering_gateway: Gateway, url: str) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await delivering_gateway.add_tenant(upstream.url)
        assert (await tenant.create(status_callback=url)).status_code == 201
        made = await create_as_twilio(tenant, StatusCallback=url)
        assert made.status_code == 201, made.text
        for sent in upstream.posts:
            assert dict(sent.form)["StatusCallback"].startswith(PUBLIC_URL)
        sid = made.json()["sid"]
        upstream.script[:] = [answer(200, call_resource(sid, status="in-progress"))]
        changed = await tenant.http.patch(f"/v1/calls/{sid}", json={"status_callback": url})
        assert changed.status_code == 200, changed.text
        assert dict(upstream.posts[-1].form)["StatusCallback"].startswith(PUBLIC_URL)


async def test_urls_for_twilio_must_not_have_an_underscore(gateway: Gateway, delivering_gateway: Gateway) -> None:
    """Covers the callbacks that Twilio sends itself: all if there is no public URL, else those of recordings and AMD."""
    url = "http://my_app:3000/hook"
    async with running_upstream(created()) as upstream:
        plain, tenant = await gateway.add_tenant(upstream.url), await delivering_gateway.add_tenant(upstream.url)
        refusals = [
            (await plain.create(status_callback=url), "/status_callback"),
            (await tenant.create(recording_status_callback=url), "/recording_status_callback"),
            (await tenant.create(async_amd_status_callback=url), "/async_amd_status_callback"),
        ]
        for refused, pointer in refusals:
            assert refused.status_code == 422
            assert [(fault["pointer"], fault["code"]) for fault in refused.json()["errors"]] == [
                (pointer, "url_host_underscore")
            ]
        assert (await create_as_twilio(plain, StatusCallback=url)).json()["code"] == 21200
        assert upstream.received == []
