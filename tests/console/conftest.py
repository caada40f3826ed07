"""Fixtures and functions of the console's tests, such as a person who is logged in."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from app.console.access import SESSION_COOKIE_NAME
from app.tenants.caller import COMMAND_LINE_CALLER
from app.tenants.scopes import Scope
from tests.support.clients import http_client
from tests.support.gateway import Gateway


@dataclass
class Person:
    """A browser that is logged in to the console. It sends the session's cookie and an `Origin` header with each request."""

    http: httpx.AsyncClient
    key: str
    """The API key that the person has logged in with."""
    key_id: str

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return await self.http.get(f"/console{path}", **options)

    async def post(self, path: str, **fields: str) -> httpx.Response:
        return await self.http.post(f"/console{path}", data=fields)


async def follow(person: Person, answer: httpx.Response) -> httpx.Response:
    """Returns the page to which a form's answer (status 303) redirects the browser."""
    assert answer.status_code == 303, answer.text
    return await person.http.get(answer.headers["Location"])


LogIn = Callable[..., Awaitable[Person]]


@pytest.fixture
def log_in(gateway: Gateway) -> LogIn:
    """Returns a function that logs in with a new API key, such as `await log_in(tenant.id, Scope.READ)`.

    Without a tenant's id, the key is an operator's. Without scopes, the key has all scopes.
    """

    async def log_in(tenant_id: str | None = None, *scopes: Scope) -> Person:
        row, key = await gateway.tenants.create_key(
            tenant_id, name=None, creator=COMMAND_LINE_CALLER, scopes=scopes or tuple(Scope)
        )
        return Person(await browser(gateway, await cookie_of(gateway, key)), key, row.prefix)

    return log_in


async def browser(gateway: Gateway, cookie: str | None = None) -> httpx.AsyncClient:
    """Returns a client that sends `cookie` in a header. httpx itself never sends a Secure cookie to http://127.0.0.1."""
    headers = {"Origin": gateway.url} | ({"Cookie": f"{SESSION_COOKIE_NAME}={cookie}"} if cookie else {})
    http = http_client(base_url=gateway.url, headers=headers)
    gateway.clients.append(http)
    return http


async def cookie_of(gateway: Gateway, key: str) -> str:
    """Logs in with the key and returns the value of the cookie."""
    async with http_client(base_url=gateway.url, headers={"Origin": gateway.url}) as http:
        answer = await http.post("/console/login", data={"key": key})
    assert answer.status_code == 303, answer.text
    found = re.match(rf"{SESSION_COOKIE_NAME}=([\w-]+);", answer.headers["Set-Cookie"])
    assert found
    return found[1]


def text_of(answer: httpx.Response) -> str:
    """Returns the text of a page, without its tags and with single spaces."""
    body = re.sub(r"(?s)<(script|style|title)\b.*?</\1>", "", answer.text)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body)).strip()
