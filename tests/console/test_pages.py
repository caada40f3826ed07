"""Tests what all pages of the console share: security headers, error pages, static files, and how to turn the console off."""

import gzip
import hashlib
import re
from importlib.resources import files
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import text

from app.console.headers import CONTENT_SECURITY_POLICY
from app.main import create_app
from app.settings import Settings
from app.tenants.caller import COMMAND_LINE_CALLER
from app.tenants.scopes import Scope
from tests.console.conftest import LogIn, browser, text_of
from tests.support.clients import http_client
from tests.support.gateway import Gateway, Tenant, running_gateway, settings_for

STATIC = Path(str(files("app.console").joinpath("static")))
SERVED = [file for file in sorted(STATIC.iterdir()) if file.suffix in (".js", ".css", ".svg")]
MAX_ASSETS_BYTES = 120_000


def require_page(answer: httpx.Response, status: int) -> None:
    """Asserts that the answer is a page of the console with this status and all security headers."""
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers.get_list("Content-Security-Policy") == [CONTENT_SECURITY_POLICY]
    assert answer.headers["Referrer-Policy"] == "same-origin"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Callgate" in answer.text


def test_the_policy_is_the_one_that_was_decided() -> None:
    assert CONTENT_SECURITY_POLICY == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    )


async def test_pages_and_errors_are_pages_that_are_not_stored(gateway: Gateway, log_in: LogIn) -> None:
    person, http = await log_in(), await browser(gateway)
    require_page(await http.get("/console/login"), 200)
    require_page(await http.post("/console/login", data={"key": "x"}), 401)
    require_page(await person.get("/session"), 200)
    require_page(await person.get("/nothing"), 404)
    require_page(await person.get("/static/0/nothing.js"), 404)
    require_page(await person.http.put("/console/session"), 405)
    require_page(await http.post("/console/login", json={"key": "x"}), 415)
    require_page(await http.post("/console/login", data={str(number): "" for number in range(501)}), 400)
    require_page(await http.post("/console/login", content=b"x" * 70_000), 413)
    assert "mine" in text_of(await person.get("/nothing", headers={"X-Request-Id": "mine"}))


async def test_an_error_page_shows_the_session_and_the_way_back(gateway: Gateway, log_in: LogIn) -> None:
    tenant = await gateway.add_tenant()
    person, caller = await log_in(tenant.id), await log_in(tenant.id, Scope.CALL)
    for path, label, back in (
        (f"/calls/{uuid4()}", "Calls", "/console/calls"),
        (f"/deliveries?tenant={uuid4()}", "Deliveries", "/console/deliveries"),
        ("/nothing", "Now", "/console/now"),
        ("/queues/a/b/c/d", "Queues", "/console/queues"),
    ):
        answer = await person.get(path)
        require_page(answer, 404)
        assert f'<a class="button primary" href="{back}">Go to {label}</a>' in answer.text
        assert '<nav aria-label="Pages">' in answer.text
        assert f"{tenant.id} · {person.key_id}" in text_of(answer)
    # A key that may see nothing has no links to pages, and can log out.
    refused = await caller.get("/calls")
    require_page(refused, 403)
    assert "/console/calls" not in refused.text
    assert "Log out" in text_of(refused)


async def test_an_error_page_without_a_session_leads_to_the_login(gateway: Gateway, log_in: LogIn) -> None:
    person, stranger = await log_in(), await browser(gateway)
    lost = await stranger.get("/console/nothing")
    assert (lost.status_code, lost.headers["Location"]) == (303, "/console/login?next=%2Fconsole%2Fnothing")
    for answer in (
        await stranger.post("/console/sip", data={"address": "x"}),
        await person.http.post("/console/sip", content=b"x" * 70_000),
        await stranger.post("/console/login", content=b"x" * 70_000),
    ):
        assert "<nav" not in answer.text
        assert 'href="/console/login"' in answer.text


async def test_a_failure_is_a_page_without_its_cause(gateway: Gateway) -> None:
    _, key = await gateway.tenants.create_key(None, name=None, creator=COMMAND_LINE_CALLER)
    http = await browser(gateway)
    for change in ("ADD CONSTRAINT broken CHECK (false) NOT VALID", "DROP CONSTRAINT broken"):
        async with gateway.database.begin() as session:
            await session.execute(text(f"ALTER TABLE console_session {change}"))
        if change.startswith("ADD"):
            answer = await http.post("/console/login", data={"key": key})
    require_page(answer, 500)
    assert "broken" not in answer.text
    assert answer.headers["X-Request-Id"] in text_of(answer)


async def test_the_page_of_a_failure_shows_the_session(gateway: Gateway, tenant: Tenant, log_in: LogIn) -> None:
    call_id = (await tenant.create()).raise_for_status().json()["id"]
    person = await log_in(tenant.id)
    async with gateway.database.begin() as session:  # no version writes this
        await session.execute(text("UPDATE call SET parameters = '\"pl4nted\"' WHERE id = CAST(:id AS uuid)"), {"id": call_id})
    answer = await person.get(f"/calls/{call_id}")
    require_page(answer, 500)
    assert '<nav aria-label="Pages">' in answer.text
    assert "Go to Calls" in text_of(answer)
    assert "pl4nted" not in answer.text


async def test_values_are_escaped(gateway: Gateway) -> None:
    http = await browser(gateway)
    answer = await http.get("/console/login", params={"next": '/console/"><script>alert(1)</script>'})
    require_page(answer, 200)
    assert "<script>alert" not in answer.text


async def test_pages_load_assets_of_their_own_only(log_in: LogIn) -> None:
    answer = await (await log_in()).get("/session")
    for address in re.findall(r'(?:src|href)="([^"]+)"', answer.text):
        assert address.startswith(("/console", "#"))
    assets = re.findall(r'(?:src|href)="(/console/static/[^"]+)"', answer.text)
    assert len(assets) >= 4


async def test_assets_are_compressed_and_kept_for_good(gateway: Gateway) -> None:
    total = 0
    async with http_client(base_url=gateway.url) as http:
        for file in SERVED:
            path = f"/console/static/{hashlib.sha256(file.read_bytes()).hexdigest()[:16]}/{file.name}"
            async with http.stream("GET", path, headers={"Accept-Encoding": "gzip"}) as answer:
                raw = b"".join([part async for part in answer.aiter_raw()])
            assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
            assert gzip.decompress(raw) == file.read_bytes()
            total += len(raw)
            plain = await http.get(path, headers={"Accept-Encoding": "identity"})
            assert plain.content == file.read_bytes()
            # A page of another version, while one is rolled out.
            other = await http.get(f"/console/static/0000000000000000/{file.name}")
            assert (other.status_code, other.headers["Cache-Control"]) == (200, "no-store")
        for name in ("SHA256SUMS", "LICENSES.txt", "..%2Frouter.py", "%2e%2e"):
            assert (await http.get(f"/console/static/x/{name}")).status_code in (303, 404)
    assert total <= MAX_ASSETS_BYTES


def test_vendored_assets_are_those_of_the_packages() -> None:
    """Compares the vendored files with SHA256SUMS, which was made from the npm packages htmx.org 2.0.11 and uplot 1.6.32."""
    lines = [line.split() for line in (STATIC / "SHA256SUMS").read_text().splitlines()]
    listed = {name: digest for digest, name in lines}
    vendored = {file.name for file in STATIC.iterdir() if ".min." in file.name}
    assert listed.keys() == vendored
    for name, digest in listed.items():
        assert hashlib.sha256((STATIC / name).read_bytes()).hexdigest() == digest
        assert name in (STATIC / "LICENSES.txt").read_text()


def test_no_template_has_inline_code() -> None:
    """Searches the templates for inline scripts and styles. The Content-Security-Policy makes browsers ignore them."""
    templates = list(Path(str(files("app.console").joinpath("templates"))).rglob("*.html"))
    assert templates
    for template in templates:
        source = template.read_text()
        assert not re.search(r"<[^>]*\s(?:style|on\w+|hx-on[\w:-]*|hx-vars)\s*=", source), template
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|javascript:", source), template
        assert not re.search(r"\|\s*safe\b", source), template


async def test_the_console_can_be_turned_off(database_url: str) -> None:
    async with running_gateway(settings_for(database_url, console=False)) as gateway, http_client(base_url=gateway.url) as http:
        for path in ("/console", "/console/login"):
            answer = await http.get(path)
            assert answer.status_code == 404
            assert answer.json()["type"] == "urn:callgate:problem:not-found"


def test_no_route_of_the_console_is_in_the_document() -> None:
    assert not [path for path in create_app(Settings()).openapi()["paths"] if path.startswith("/console")]


@pytest.mark.parametrize("path", ["/console", "/console/session"])
async def test_head_is_answered_as_get(log_in: LogIn, path: str) -> None:
    person = await log_in()
    assert (await person.http.head(path)).status_code == (await person.http.get(path)).status_code
