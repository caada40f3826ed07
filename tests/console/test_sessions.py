"""Tests login, logout, the end of sessions (with their API key, or after a time), and what a session may see and do."""

import re
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from app.audit.events import Actor
from app.console.access import SESSION_COOKIE_NAME, path_after_login
from app.console.sessions.service import add_login_link
from app.tenants.caller import COMMAND_LINE_CALLER
from app.tenants.scopes import Scope
from tests.console.conftest import LogIn, Person, browser, cookie_of, text_of
from tests.console.rows import add_delivery
from tests.console.test_call_pages import updated
from tests.support.clients import http_client
from tests.support.gateway import Gateway, running_gateway, settings_for
from tests.support.upstream import created, running_upstream

PAGE = "/session"


async def execute(gateway: Gateway, statement: str, **values: object) -> list[Any]:
    async with gateway.database.begin() as session:
        result: Any = await session.execute(text(statement), values)
        return list(result) if result.returns_rows else []


async def is_logged_in(person: Person) -> bool:
    answer = await person.get(PAGE)
    assert answer.status_code in (200, 303)
    return answer.status_code == 200


async def test_an_operators_key_logs_in_and_the_cookie_is_kept_from_scripts_and_other_sites(gateway: Gateway) -> None:
    _, key = await gateway.tenants.create_key(None, name=None, creator=COMMAND_LINE_CALLER, scopes=tuple(Scope))
    http = await browser(gateway)
    answer = await http.post("/console/login", data={"key": f" {key} ", "next": "/console/session?x=1"})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/console/session?x=1")
    cookie = answer.headers["Set-Cookie"]
    attributes = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert cookie.startswith(f"{SESSION_COOKIE_NAME}=")
    assert SESSION_COOKIE_NAME.startswith("__Host-")
    assert {"httponly", "secure", "samesite=strict", "path=/", "max-age=43200"} <= attributes
    assert answer.headers["Cache-Control"] == "no-store"


async def test_the_cookies_value_is_stored_nowhere(gateway: Gateway, log_in: LogIn) -> None:
    person = await log_in()
    token = person.http.headers["Cookie"].partition("=")[2]
    rows = await execute(gateway, "SELECT console_session::text FROM console_session")
    assert rows
    assert token not in str(rows)
    assert token.encode().hex() not in str(rows)


async def test_a_page_without_a_session_leads_to_the_login_and_back(gateway: Gateway) -> None:
    http = await browser(gateway)
    for path in ("/console/session?a=1&b=%C3%A9", "/console"):
        answer = await http.get(path)
        assert answer.status_code == 303
        login = await http.get(answer.headers["Location"])
        assert login.status_code == 200
        wanted = re.search(r'name="next" value="([^"]+)"', login.text)
        assert wanted
        assert wanted[1].replace("&amp;", "&") == path
    part = {"HX-Request": "true"}
    for page, target in {
        "/console/calls?status=busy": "/console/login?next=%2Fconsole%2Fcalls%3Fstatus%3Dbusy",
        "/console": "/console/login",
        "/elsewhere": "/console/login",
    }.items():
        answer = await http.get("/console/session", headers=part | {"HX-Current-URL": f"http://callgate.example{page}"})
        assert answer.status_code == 401
        assert answer.headers["HX-Redirect"] == target
    for unknown in (part, part | {"HX-Current-URL": "http://["}):
        assert (await http.get("/console/session", headers=unknown)).headers["HX-Redirect"] == "/console/login"
    boosted = await http.get("/console/calls?status=busy", headers=part | {"HX-Boosted": "true"})
    assert boosted.headers["HX-Redirect"] == "/console/login?next=%2Fconsole%2Fcalls%3Fstatus%3Dbusy"


async def test_a_request_of_another_site_leads_to_the_login_by_a_page_and_never_in_a_loop(
    gateway: Gateway, log_in: LogIn
) -> None:
    """Checks this also for a browser that says of each of its requests that another site has sent it."""
    path, cross_site = "/console/session?a=1&b=2", {"Sec-Fetch-Site": "cross-site"}
    without_cookie, person = await browser(gateway), await log_in()
    page = await without_cookie.get(path, headers=cross_site)
    assert page.status_code == 200
    found = re.search(r'http-equiv="refresh" content="0; url=([^"]+)"', page.text)
    assert found
    assert found[1] == "/console/login?next=%2Fconsole%2Fsession%3Fa%3D1%26b%3D2"
    assert 'name="key"' in (await without_cookie.get(found[1], headers=cross_site)).text
    led = await person.http.get(found[1], headers=cross_site)
    assert (led.status_code, led.headers["Location"]) == (303, path)
    assert (await person.http.get(path, headers=cross_site)).status_code == 200
    # A session that has ended leads to the login at once.
    await person.post("/logout")
    assert (await person.http.get(path, headers=cross_site)).headers["Location"] == found[1]
    assert 'name="key"' in (await person.http.get(found[1])).text


@pytest.mark.parametrize(
    "text",
    [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "/v1/calls",
        "/consolex",
        "/console\\x",
        "/console/../v1/calls",
        "/console/%2E%2e/v1/calls",
        "/console//evil.example",
        "/console/..//evil.example",
        "/console/ x",
        "/console/\nx",
        "/console/login?next=/console/login",
        "javascript:alert(1)",
        "",
    ],
)
def test_the_login_leads_to_no_other_site(text: str) -> None:
    assert path_after_login(text) == "/console"


async def test_a_wrong_key_is_refused_and_says_nothing_about_it(gateway: Gateway, log_in: LogIn) -> None:
    known = (await log_in()).key
    http = await browser(gateway)
    texts = set()
    for key in ("", "cgk_000000000000_x", known + "x", "é" * 500, known.rpartition("_")[0]):
        answer = await http.post("/console/login", data={"key": key})
        assert answer.status_code == 401
        assert "Set-Cookie" not in answer.headers
        assert not key or key not in answer.text
        texts.add(text_of(answer))
    assert len(texts) == 1
    assert "unknown, expired or revoked" in texts.pop()


async def test_login_attempts_are_limited(database_url: str) -> None:
    async with running_gateway(settings_for(database_url, key_attempts=3)) as gateway:
        http = await browser(gateway)
        answers = [await http.post("/console/login", data={"key": f"cgk_wrong_{number}"}) for number in range(5)]
    assert [answer.status_code for answer in answers] == [401, 401, 401, 429, 429]
    assert int(answers[-1].headers["Retry-After"]) > 0
    assert "Try again in" in text_of(answers[-1])


async def test_logout_ends_the_session_for_whoever_has_its_cookie(gateway: Gateway, log_in: LogIn) -> None:
    person = await log_in()
    thief = await browser(gateway, person.http.headers["Cookie"].partition("=")[2])
    assert (await thief.get("/console/session")).status_code == 200
    answer = await person.post("/logout")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/console/login")
    assert "Max-Age=0" in answer.headers["Set-Cookie"]
    assert (await thief.get("/console/session")).status_code == 303
    assert (await person.post("/logout")).status_code == 303


async def test_login_and_logout_are_in_the_audit_log(gateway: Gateway, log_in: LogIn) -> None:
    tenant = await gateway.add_tenant(with_account=False)
    person = await log_in(tenant.id)
    await person.post("/logout")
    rows = await execute(
        gateway,
        "SELECT action, actor_kind, actor_name, request_id IS NOT NULL FROM audit_event "
        "WHERE tenant_id = :tenant AND action ~ '^console' ORDER BY at",
        tenant=tenant.id,
    )
    assert [tuple(row) for row in rows] == [
        ("console.login", "key", person.key_id, True),
        ("console.logout", "key", person.key_id, True),
    ]


@pytest.mark.parametrize("change", ["revoked_at = now()", "expires_at = now()"])
async def test_a_session_ends_with_its_key(gateway: Gateway, log_in: LogIn, change: str) -> None:
    person, other = await log_in(), await log_in()
    await execute(gateway, f"UPDATE api_key SET {change} WHERE prefix = :key", key=person.key_id)  # noqa: S608
    assert not await is_logged_in(person)
    assert await is_logged_in(other)


async def test_scopes_are_those_of_the_key_now(gateway: Gateway, log_in: LogIn) -> None:
    person = await log_in()
    await execute(gateway, "UPDATE api_key SET scopes = '{admin}' WHERE prefix = :key", key=person.key_id)
    answer = await person.get(PAGE)
    assert answer.status_code == 403
    assert "the scope read" in text_of(answer)


async def test_an_unused_session_ends_and_a_used_one_ends_later(gateway: Gateway, log_in: LogIn) -> None:
    used, unused, old, polled = [await log_in() for _ in range(4)]
    shift = (
        "UPDATE console_session SET seen_at = seen_at - :by * interval '1 second', expires_at = expires_at - :by * "
        "interval '1 second' WHERE key_id = (SELECT id FROM api_key WHERE prefix = :key)"
    )
    for person in (used, polled):
        await execute(gateway, shift, by=3500, key=person.key_id)
    assert await is_logged_in(used)
    # A page that refreshes itself does not keep the session.
    assert (await polled.get(PAGE, headers={"HX-Request": "true"})).status_code == 200
    for person in (used, polled):
        await execute(gateway, shift, by=3500, key=person.key_id)
    assert await is_logged_in(used)
    assert not await is_logged_in(polled)
    await execute(gateway, shift, by=3601, key=unused.key_id)
    assert not await is_logged_in(unused)
    await execute(gateway, "UPDATE console_session SET expires_at = now() WHERE name = :key", key=old.key_id)
    assert not await is_logged_in(old)


async def test_sessions_that_ended_long_ago_are_deleted(gateway: Gateway, log_in: LogIn) -> None:
    old = await log_in()
    expire = "UPDATE console_session SET expires_at = now() - interval '25 hours' WHERE name = :key"
    await execute(gateway, expire, key=old.key_id)
    await log_in()
    assert not await execute(gateway, "SELECT id FROM console_session WHERE name = :key", key=old.key_id)


async def test_a_suspended_tenants_session_does_what_its_keys_may_under_v1(gateway: Gateway, log_in: LogIn) -> None:
    async with running_upstream(created(), updated()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        call_id = (await tenant.create()).raise_for_status().json()["id"]
        person = await log_in(tenant.id)
        delivery_id = await add_delivery(gateway, tenant.id, call_id=UUID(call_id), state="gave_up", attempts=9)
        await gateway.tenants.set_tenant_suspended(tenant.id, suspended=True)
        assert await is_logged_in(person)
        shown = text_of(await person.get(f"/calls/{call_id}"))
        assert [button in shown for button in ("Reveal", "End call", "Send again")] == [True] * 3
        assert "Send all of them again" in text_of(await person.get("/deliveries?state=given_up"))
        answers = {
            path: (await person.post(path, **fields)).status_code
            for path, fields in {
                "/sip": {"address": "sip:kate@example.com"},
                f"/calls/{call_id}/reveal": {},
                f"/calls/{call_id}/deliveries/{delivery_id}/retry": {},
                f"/deliveries/{tenant.id}/{call_id}/{delivery_id}/retry": {},
                f"/deliveries/{tenant.id}/replay": {"since": "2026-01-01T00:00"},
                f"/calls/{call_id}/end": {},
                f"/queues/{tenant.id}/reminders/pause": {},
                f"/tenants/{tenant.id}/keys": {"once": str(uuid4()), "scopes": "read"},
            }.items()
        }
    assert list(answers.values()) == [200, 200, 303, 303, 303, 303, 403, 403]
    assert (await person.post("/logout")).status_code == 303


async def test_the_session_page_names_the_client(gateway: Gateway, log_in: LogIn) -> None:
    tenant = await gateway.add_tenant(with_account=False)
    own, operator = await log_in(tenant.id, Scope.READ), await log_in()
    page = text_of(await own.get(PAGE))
    assert tenant.id in page
    assert own.key_id in page
    assert "every tenant" in text_of(await operator.get(PAGE))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "null"},
        {"Origin": "https://evil.example"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "file://127.0.0.1"},
        {"Origin": "http://["},
        {"Origin": "own", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "own", "Sec-Fetch-Site": "same-site"},
    ],
)
async def test_a_forged_origin_is_refused_and_changes_nothing(gateway: Gateway, log_in: LogIn, headers: dict[str, str]) -> None:
    person = await log_in()
    sent = {name: gateway.url if value == "own" else value for name, value in headers.items()}
    async with http_client(base_url=gateway.url, headers={"Cookie": person.http.headers["Cookie"]} | sent) as http:
        for path, data in (("/console/logout", {}), ("/console/login", {"key": person.key})):
            answer = await http.post(path, data=data)
            assert answer.status_code == 403
            assert "does not come from the console" in text_of(answer)
            assert "Set-Cookie" not in answer.headers
    assert await is_logged_in(person)


async def test_a_key_without_read_can_still_log_out(log_in: LogIn) -> None:
    person = await log_in(None, Scope.ADMIN)
    assert (await person.get(PAGE)).status_code == 403
    assert (await person.post("/logout")).headers["Location"] == "/console/login"


async def test_an_api_key_opens_no_page(gateway: Gateway, log_in: LogIn) -> None:
    person = await log_in()
    async with http_client(base_url=gateway.url, headers={"Authorization": f"Bearer {person.key}"}) as http:
        assert (await http.get("/console/session")).status_code == 303
    for value in ("x", "x" * 10_000, "é"):
        async with http_client(base_url=gateway.url, headers={"Cookie": f"{SESSION_COOKIE_NAME}={value}".encode()}) as http:
            assert (await http.get("/console/session")).status_code == 303


async def test_the_cookie_opens_no_route_of_the_api(log_in: LogIn) -> None:
    person = await log_in()
    assert (await person.http.get("/v1/admin/tenants")).status_code == 401


async def test_the_cookie_of_a_login_is_new_each_time(gateway: Gateway, log_in: LogIn) -> None:
    person = await log_in()
    assert len({await cookie_of(gateway, person.key) for _ in range(3)}) == 3


async def test_a_link_logs_an_operator_in_once(gateway: Gateway) -> None:
    link = await add_login_link(gateway.database, Actor("cli", "kate"))
    http = await browser(gateway)
    # Looking at the link does not use it up, and its value is no cookie.
    for _ in range(2):
        assert "works once" in text_of(await http.get(f"/console/link/{link}"))
    for value in (link, f"link:{link}"):
        assert (await (await browser(gateway, value)).get("/console/session")).status_code == 303
    answers = [await http.post("/console/link", data={"link": link}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [303, 401]
    assert "used before" in text_of(answers[1])
    person = await browser(gateway, answers[0].headers["Set-Cookie"].partition("=")[2].partition(";")[0])
    assert "kate" in text_of(await person.get("/console/session"))
    rows = await execute(gateway, "SELECT action, actor_kind FROM audit_event WHERE actor_name = 'kate' ORDER BY at")
    assert [tuple(row) for row in rows] == [("console.link", "cli"), ("console.login", "link")]


async def test_a_link_expires_and_cannot_be_guessed_or_forged(gateway: Gateway, log_in: LogIn) -> None:
    link = await add_login_link(gateway.database, Actor("cli", "late"))
    await execute(gateway, "UPDATE console_session SET expires_at = now() WHERE name = 'late'")
    token = (await log_in()).http.headers["Cookie"].partition("=")[2]
    http = await browser(gateway)
    for wrong in (link, token, "", "x"):
        assert (await http.post("/console/link", data={"link": wrong})).status_code == 401
    fresh = await add_login_link(gateway.database, Actor("cli", "fresh"))
    async with http_client(base_url=gateway.url, headers={"Origin": "https://evil.example"}) as other:
        assert (await other.post("/console/link", data={"link": fresh})).status_code == 403
    assert (await http.post("/console/link", data={"link": fresh})).status_code == 303
