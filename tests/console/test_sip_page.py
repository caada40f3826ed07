"""Tests the page that checks a SIP address and shows its parts, as a browser without JavaScript uses it."""

from html import unescape

from app.tenants.scopes import Scope
from tests.console.conftest import LogIn, text_of
from tests.support.gateway import Gateway, Tenant


async def test_an_address_is_shown_with_its_findings_marked(tenant: Tenant, log_in: LogIn) -> None:
    person = await log_in(tenant.id, Scope.READ)
    assert "Paste an address" in text_of(await person.get("/sip"))
    answer = await person.post("/sip", address="sip:ka te@example.com;transport=quic?X-A=1")
    assert answer.status_code == 200
    assert '<mark class="error">␣<sup>1</sup></mark>' in answer.text
    assert '<mark class="error">transport=quic<sup>2</sup></mark>' in answer.text
    shown = text_of(answer)
    assert "Calls to this address are refused: 2 errors." in shown
    assert "Use udp, tcp or tls" in shown
    assert 'value="sip:ka te@example.com;transport=quic?X-A=1"' in unescape(answer.text)


async def test_an_address_is_escaped_and_its_password_masked(log_in: LogIn) -> None:
    person = await log_in()
    answer = await person.post("/sip", address='sip:"><script>alert(1)</script>:pl4nted@example.com')
    assert "<script>alert" not in answer.text
    assert "pl4nted" not in answer.text
    assert "•••" in answer.text


async def test_a_good_address_has_no_findings(log_in: LogIn) -> None:
    shown = text_of(await (await log_in()).post("/sip", address="sip:kate@example.com:5070"))
    assert "Calls to this address are sent to Twilio. Nothing was found." in shown
    assert "Host example.com Port 5070" in shown


async def test_another_site_cannot_send_the_form(gateway: Gateway, log_in: LogIn) -> None:
    person = await log_in()
    answer = await person.http.post("/console/sip", data={"address": "x"}, headers={"Origin": "https://evil.example"})
    assert answer.status_code == 403
