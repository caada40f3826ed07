"""Tests the login with OpenID Connect, at a real provider (npm oidc-provider) and at providers whose answers are wrong."""

import asyncio
import base64
import io
import json
import re
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest
from sqlalchemy import text

from app.console.access import SESSION_COOKIE_NAME
from app.console.oidc.login import LoginAttempt, ProviderFailed, oidc_provider
from app.console.oidc.provider import OidcProvider
from app.console.oidc.router import OIDC_LOGIN_COOKIE_NAME
from app.console.oidc.rules import client_for_claims
from app.console_settings import OidcAccessRule
from app.serve_settings import require_serve_settings
from app.settings import Settings, SettingsError
from app.tenants.caller import Caller, OperatorCaller
from app.tenants.scopes import Scope
from tests.cli.running import free_port
from tests.console.conftest import browser, text_of
from tests.support import node
from tests.support.clients import http_client
from tests.support.cluster import jwk, rsa_key
from tests.support.gateway import Gateway, running_gateway, settings_for
from tests.support.logs import logging_to
from tests.support.upstream import Upstream, answer, refused_url, running_upstream

SECRET = "a secret: with=signs&more%"
RULES = [
    {"claim": "groups", "value": "voice-operators", "scopes": ["read", "admin"]},
    {"claim": "groups", "value": "support", "scopes": ["read"], "tenant": "support"},
    {"claim": "email", "value": "mallory@example.com", "scopes": ["read", "admin"]},
    {"claim": "sub", "value": "nobody", "scopes": ["read"], "tenant": "gone"},
]


@dataclass
class SingleSignOn:
    gateway: Gateway
    issuer: str

    async def log_in(self, account: str, wanted: str = "/console/session", **changes: str) -> httpx.Response:
        """Logs in like a browser, and returns Callgate's answer to the redirect from the provider.

        `changes` are parameters of this redirect that get another value.
        """
        http = await browser(self.gateway)
        begun = await http.get("/console/oidc/login", params={"next": wanted})
        assert begun.status_code == 303, begun.text
        assert "samesite=lax" in begun.headers["Set-Cookie"].lower()
        kept = cookies_of(begun)[OIDC_LOGIN_COOKIE_NAME]
        back = await self._at_provider(f"{begun.headers['Location']}&login_hint={account}")
        back = str(httpx.URL(back).copy_merge_params(changes))
        return await http.get(back, headers={"Cookie": f"{OIDC_LOGIN_COOKIE_NAME}={kept}"})

    async def _at_provider(self, address: str) -> str:
        async with http_client() as http:
            while address.startswith(self.issuer):
                answered = await http.get(address)
                assert answered.status_code in (302, 303), answered.text
                address = str(httpx.URL(address).join(answered.headers["Location"]))
        return address


def cookies_of(response: httpx.Response) -> dict[str, str]:
    lines = response.headers.get_list("Set-Cookie")
    return dict(line.partition(";")[0].split("=", 1) for line in lines)


@pytest.fixture(scope="module")
def redirect_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def issuer(redirect_port: int) -> Iterator[str]:
    node.install_packages(node.CONSOLE_PROJECT)
    command = ["node", "provider.js", f"http://127.0.0.1:{redirect_port}/console/oidc/callback"]
    with subprocess.Popen(
        command, cwd=node.CONSOLE_PROJECT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout
        yield process.stdout.readline().strip()
        process.kill()


@pytest.fixture(scope="module")
async def single_sign_on(database_url: str, issuer: str, redirect_port: int) -> AsyncIterator[SingleSignOn]:
    settings = settings_for(
        database_url,
        console_url=f"http://127.0.0.1:{redirect_port}/",
        console_oidc_issuer=issuer,
        console_oidc_client_id="callgate",
        console_oidc_client_secret=SECRET,
        console_oidc_scope="openid email groups",
        console_oidc_access=json.dumps(RULES),
    )
    async with running_gateway(settings, port=redirect_port) as gateway:
        await gateway.tenants.create_tenant("support", name="Support")
        yield SingleSignOn(gateway, issuer)


async def session_page(gateway: Gateway, done: httpx.Response) -> str:
    assert done.status_code == 200, text_of(done)
    http = await browser(gateway, cookies_of(done)[SESSION_COOKIE_NAME])
    return text_of(await http.get("/console/session"))


async def test_an_operator_logs_in_and_comes_back_to_the_page(single_sign_on: SingleSignOn) -> None:
    done = await single_sign_on.log_in("kate")
    # A page that leads on: a redirect from the provider would not bring a Strict cookie along.
    assert re.search(r'http-equiv="refresh" content="0; url=/console/session"', done.text)
    assert cookies_of(done)[OIDC_LOGIN_COOKIE_NAME] == '""'
    assert (
        "samesite=strict" in next(line for line in done.headers.get_list("Set-Cookie") if SESSION_COOKIE_NAME in line).lower()
    )
    page = await session_page(single_sign_on.gateway, done)
    assert "kate@example.com" in page
    assert "every tenant" in page
    async with single_sign_on.gateway.database.begin() as session:
        statement = "SELECT actor_kind, actor_name FROM audit_event WHERE action = 'console.login' ORDER BY at DESC LIMIT 1"
        assert [tuple(row) for row in await session.execute(text(statement))] == [("oidc", "kate@example.com")]


async def test_a_tenants_person_sees_its_tenant(single_sign_on: SingleSignOn) -> None:
    page = await session_page(single_sign_on.gateway, await single_sign_on.log_in("jack"))
    assert "the tenant support" in page
    assert "admin" not in page


@pytest.mark.parametrize("account", ["mallory", "stranger", "nobody"])
async def test_whom_no_rule_fits_is_refused(single_sign_on: SingleSignOn, account: str) -> None:
    done = await single_sign_on.log_in(account)
    assert done.status_code == 403
    assert "no rule" in text_of(done)
    assert SESSION_COOKIE_NAME not in cookies_of(done)


async def test_the_login_page_offers_it_and_the_address_has_pkce_state_and_nonce(single_sign_on: SingleSignOn) -> None:
    http = await browser(single_sign_on.gateway)
    assert "single sign-on" in text_of(await http.get("/console/login"))
    begun = [await http.get("/console/oidc/login") for _ in range(2)]
    first, second = (parse_qs(urlsplit(each.headers["Location"]).query) for each in begun)
    assert first["code_challenge_method"] == ["S256"]
    assert first["response_type"] == ["code"]
    for name in ("state", "nonce", "code_challenge"):
        assert len(first[name][0]) >= 43
        assert first[name] != second[name]
    # What the browser keeps is encrypted.
    assert first["state"][0].encode() not in bytes.fromhex(cookies_of(begun[0])[OIDC_LOGIN_COOKIE_NAME])


async def test_codes_tokens_and_the_clients_secret_appear_in_no_log(
    single_sign_on: SingleSignOn,
) -> None:
    with logging_to(log := io.StringIO()):
        done = await single_sign_on.log_in("kate")
        refused = await single_sign_on.log_in("mallory")
    assert (done.status_code, refused.status_code) == (200, 403)
    lines = log.getvalue()
    assert "console_oidc_refused" in lines
    for response in (done, refused):
        for secret in (*parse_qs(response.request.url.query.decode())["code"], *cookies_of(response).values(), SECRET):
            assert secret == '""' or secret not in lines


async def test_an_answer_that_was_not_asked_for_is_refused(single_sign_on: SingleSignOn) -> None:
    gateway = single_sign_on.gateway
    http = await browser(gateway)
    begun = await http.get("/console/oidc/login")
    state = parse_qs(urlsplit(begun.headers["Location"]).query)["state"][0]
    cookie = {"Cookie": f"{OIDC_LOGIN_COOKIE_NAME}={cookies_of(begun)[OIDC_LOGIN_COOKIE_NAME]}"}
    wrong: list[tuple[dict[str, str], dict[str, str]]] = [
        ({"code": "x", "state": state}, {}),
        ({"code": "x", "state": state}, {"Cookie": f"{OIDC_LOGIN_COOKIE_NAME}=00"}),
        ({"code": "x", "state": "other"}, cookie),
        ({"code": "x"}, cookie),
        ({"error": "access_denied", "state": state}, cookie),
        ({"code": "x", "state": state, "iss": "https://evil.example"}, cookie),
        ({"code": "guessed", "state": state}, cookie),
    ]
    for changes in ({"state": state}, {"iss": "https://evil.example"}):
        refused = await single_sign_on.log_in("kate", **changes)
        assert (refused.status_code, SESSION_COOKIE_NAME in cookies_of(refused)) == (401, False)
    for query, headers in wrong:
        refused = await http.get("/console/oidc/callback", params=query, headers=headers)
        assert refused.status_code == 401, query
        assert SESSION_COOKIE_NAME not in cookies_of(refused)


async def test_guesses_of_codes_are_limited(database_url: str, issuer: str) -> None:
    values = {"client_id": "callgate", "client_secret": SECRET, "access": "[]", "issuer": issuer}
    oidc = {f"console_oidc_{name}": value for name, value in values.items()}
    async with running_gateway(settings_for(database_url, console_url="http://127.0.0.1:1", key_attempts=2, **oidc)) as gateway:
        http = await browser(gateway)
        begun = await http.get("/console/oidc/login")
        state = parse_qs(urlsplit(begun.headers["Location"]).query)["state"][0]
        cookie = {"Cookie": f"{OIDC_LOGIN_COOKIE_NAME}={cookies_of(begun)[OIDC_LOGIN_COOKIE_NAME]}"}
        guess = {"code": "guessed", "state": state}
        statuses = [(await http.get("/console/oidc/callback", params=guess, headers=cookie)).status_code for _ in range(4)]
    assert statuses == [401, 401, 429, 429]


async def test_without_a_provider_there_is_no_such_page(gateway: Gateway) -> None:
    http = await browser(gateway)
    for path in ("login", "callback?code=x&state=y"):
        assert (await http.get(f"/console/oidc/{path}")).status_code == 404
    assert "single sign-on" not in text_of(await http.get("/console/login"))


async def test_a_provider_that_cannot_be_reached_is_said_without_its_cause(database_url: str) -> None:
    values = {"client_id": "c", "client_secret": "s", "access": "[]", "issuer": refused_url()}
    settings = settings_for(
        database_url, console_url="http://127.0.0.1:1", **{f"console_oidc_{name}": value for name, value in values.items()}
    )
    async with running_gateway(settings) as gateway:
        refused = await (await browser(gateway)).get("/console/oidc/login")
    assert refused.status_code == 502
    assert "did not succeed" in text_of(refused)


# What the provider may not do. `Forger` signs whatever a test wants.

ATTEMPT = LoginAttempt("state", "nonce", "verifier")


def b64(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def claims(upstream: Upstream, **changes: Any) -> dict[str, Any]:
    now = int(time.time())
    plain = {"iss": upstream.url, "sub": "kate", "aud": "callgate", "nonce": "nonce", "iat": now, "exp": now + 3600}
    return {name: value for name, value in (plain | changes).items() if value is not None}


async def finished(token_of: Any, *, metadata: dict[str, Any] | None = None, userinfo: Any = None) -> dict[str, Any]:
    """Returns the claims from a login. The provider is a server that answers with the ID token that `token_of` makes."""

    async def behave(upstream: Upstream, reader: Any, writer: Any) -> None:
        url = upstream.url
        documents: dict[str, Any] = {
            "/.well-known/openid-configuration": {
                "issuer": url,
                "authorization_endpoint": f"{url}/auth",
                "token_endpoint": f"{url}/token",
                "jwks_uri": f"{url}/jwks",
                "id_token_signing_alg_values_supported": ["RS256", "HS256", "none"],
                **({"userinfo_endpoint": f"{url}/me"} if userinfo else {}),
                **(metadata or {}),
            },
            "/jwks": {"keys": [jwk(rsa_key("provider"), "k")]},
            "/token": {"access_token": "a", "token_type": "Bearer", "id_token": token_of(upstream)},
            "/me": userinfo,
        }
        await answer(200, documents[urlsplit(upstream.received[-1].path).path])(upstream, reader, writer)

    async with running_upstream(behave) as upstream:
        provider = OidcProvider(upstream.url, "callgate", "secret", "http://127.0.0.1/back", "openid")
        return await provider.fetch_claims("code", ATTEMPT)


def signed(key: str = "provider", key_id: str = "k", **changes: Any) -> Any:
    return lambda upstream: jwt.encode(claims(upstream, **changes), rsa_key(key), "RS256", headers={"kid": key_id})


@pytest.mark.parametrize("status", [200, 500])
async def test_many_logins_cause_one_request_to_the_provider(status: int) -> None:
    """Anyone can begin a login, also while the provider fails."""

    async def behave(upstream: Upstream, reader: Any, writer: Any) -> None:
        await upstream.released.wait()
        document = {"issuer": upstream.url, "authorization_endpoint": f"{upstream.url}/auth"}
        await answer(status, document)(upstream, reader, writer)

    async with running_upstream(behave) as upstream:
        provider = OidcProvider(upstream.url, "callgate", "secret", "http://127.0.0.1/back", "openid")
        begun = [asyncio.create_task(provider.begin_authorization()) for _ in range(5)]
        while not upstream.received:
            await asyncio.sleep(0.01)
        begun[0].cancel()
        upstream.released.set()
        ended = await asyncio.gather(*begun[1:], provider.begin_authorization(), return_exceptions=True)
        ended += await asyncio.gather(provider.begin_authorization(), return_exceptions=True)
        failures = [str(error) for error in ended if isinstance(error, ProviderFailed)]
        assert failures == (["status_500"] * 6 if status == 500 else [])
        assert len(upstream.received) == 1


async def test_a_token_of_the_provider_is_accepted() -> None:
    assert (await finished(signed()))["sub"] == "kate"
    merged = await finished(signed(email="signed@example.com"), userinfo={"sub": "kate", "email": "x@y", "groups": ["a"]})
    assert (merged["email"], merged["groups"]) == ("signed@example.com", ["a"])


async def test_an_address_of_the_token_is_not_verified_by_the_user_info_about_another() -> None:
    info = {"sub": "kate", "email": "kate@example.com", "email_verified": True}
    assert "email_verified" not in await finished(signed(email="operator@example.com"), userinfo=info)
    assert (await finished(signed(email="kate@example.com"), userinfo=info))["email_verified"] is True
    assert (await finished(signed(), userinfo=info))["email_verified"] is True


FORGED: dict[str, Any] = {
    "of another key": signed("another"),
    "of an unknown key": signed("another", "other"),
    "for another client": signed(aud="another"),
    "for another client, from our party": signed(aud="another", azp="callgate"),
    "of another issuer": signed(iss="https://evil.example"),
    "for another attempt": signed(nonce="other"),
    "without a nonce": signed(nonce=None),
    "without a subject": signed(sub=None),
    "with an empty subject": signed(sub=""),
    "expired": signed(exp=int(time.time()) - 3600),
    "without an expiry": signed(exp=None),
    "for another party, too": signed(aud=["callgate", "another"]),
    "with the hash of another access token": signed(at_hash="AAAAAAAAAAAAAAAAAAAAAA"),
    "not signed": lambda upstream: f"{b64({'alg': 'none'})}.{b64(claims(upstream))}.",
    "signed with the client's secret": lambda upstream: jwt.encode(claims(upstream), "secret" * 8, "HS256"),
    "no token": lambda _: "x",
    "empty": lambda _: None,
}


@pytest.mark.parametrize("name", FORGED)
async def test_a_forged_token_is_refused(name: str) -> None:
    with pytest.raises(ProviderFailed, match="id_token"):
        await finished(FORGED[name])


@pytest.mark.parametrize(
    ("metadata", "userinfo", "reason"),
    [
        ({"issuer": "https://evil.example"}, None, "discovery_of_another_issuer"),
        ({"token_endpoint": "http://example.com/token"}, None, "token_endpoint_not_https"),
        ({"jwks_uri": None}, None, "jwks_uri_not_https"),
        ({"id_token_signing_alg_values_supported": None}, None, "id_token_signing_alg_values_supported_not_a_list"),
        ({"token_endpoint_auth_methods_supported": 5}, None, "token_endpoint_auth_methods_supported_not_a_list"),
        ({}, {"sub": "another"}, "userinfo_of_another"),
        ({}, ["x"], "not_an_object"),
    ],
)
async def test_a_provider_that_contradicts_itself_is_refused(metadata: dict[str, Any], userinfo: Any, reason: str) -> None:
    with pytest.raises(ProviderFailed, match=reason):
        await finished(signed(), metadata=metadata, userinfo=userinfo)


@pytest.mark.parametrize(
    ("person", "expected"),
    [
        ({"groups": ["a", "ops"]}, "operator"),
        ({"groups": "ops"}, "operator"),
        ({"groups": ["opsx"]}, None),
        ({"groups": "x ops"}, None),
        ({}, None),
        ({"email": "kate@example.com", "email_verified": True}, "acme"),
        ({"email": "kate@example.com", "email_verified": "true"}, None),
        ({"email": "kate@example.com"}, None),
        ({"groups": ["ops"], "email": "kate@example.com", "email_verified": True}, "operator"),
    ],
)
def test_the_first_rule_that_fits_counts_and_without_one_nobody_gets_in(person: dict[str, Any], expected: str | None) -> None:
    rules = [
        OidcAccessRule(claim="groups", value="ops", scopes=("read", "admin")),
        OidcAccessRule(claim="email", value="kate@example.com", scopes=("read",), tenant="acme"),
    ]
    client = client_for_claims(rules, {"sub": "1"} | person)
    match client:
        case None:
            assert expected is None
        case OperatorCaller():
            assert expected == "operator"
            assert client.scopes == {Scope.READ, Scope.ADMIN}
        case Caller():
            assert expected == client.tenant_id
            assert client.scopes == {Scope.READ}
    if client:
        assert client.name == (person["email"] if person.get("email_verified") is True else "1")


GIVEN = {
    "console_url": "https://ops.example.com",
    "console_oidc_issuer": "https://id.example.com",
    "console_oidc_client_id": "callgate",
    "console_oidc_client_secret": "s3cret-v4lue",
    "console_oidc_access": "[]",
}


def test_the_redirect_uri_has_console_once() -> None:
    provider = oidc_provider(Settings.model_validate(GIVEN | {"console_url": "https://ops.example.com/console/"}))
    assert provider
    assert provider.redirect_uri == "https://ops.example.com/console/oidc/callback"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *[({name: None}, f"needs CALLGATE_{name.upper()}, too") for name in GIVEN],
        ({"console_oidc_issuer": "http://id.example.com"}, "must be an https:// URL"),
        ({"console_oidc_scope": "email profile"}, "must contain `openid`"),
        ({"console_oidc_access": "{"}, "must be a JSON list of rules: the text"),
        ({"console_oidc_access": '[{"claim": "a", "value": "b", "scopes": ["all"]}]'}, "0/scopes/0"),
        ({"console_oidc_access": '[{"claim": "a", "value": "b", "scopes": []}]'}, "0/scopes"),
        ({"console_oidc_access": '[{"claim": "a", "value": "b", "scopes": ["read"], "tenants": "x"}]'}, "0/tenants"),
        ({"console_url": "ops.example.com"}, "must be an http:// or https:// URL"),
    ],
)
def test_wrong_settings_are_named_and_show_no_secret(changes: dict[str, Any], message: str) -> None:
    require_serve_settings(Settings.model_validate(GIVEN))
    with pytest.raises((ValueError, SettingsError), match=re.escape(message)) as raised:
        require_serve_settings(Settings.model_validate(GIVEN | changes))
    assert GIVEN["console_oidc_client_secret"] not in str(raised.value)
