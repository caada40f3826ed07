"""Tests that odd paths, queries and forms never cause an answer with a status of 500 or above."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest

from app.console.router import ROUTERS
from tests.console.conftest import LogIn
from tests.console.test_planted_secrets import REQUESTS
from tests.support.gateway import Gateway

ODD = ["%00", "a%00b", "%FF", "%ED%A0%80", "%2e%2e%2f", "%25%27", "%D9%A3", "-1", "9" * 400, "x" * 5000, "%3Cscript%3E"]
TIMES = ["0001-01-01T00:00", "0001-01-01T00:00%2B23:59", "9999-12-31T23:59-23:59", "2026-13-01", "1969-12-31T00:00~x"]
QUERIES = (
    "q",
    "tenant",
    "queue",
    "since",
    "until",
    "cursor",
    "after",
    "after_tenant",
    "actor",
    "action",
    "state",
    "sent",
    "range",
    "done",
)
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def routes(method: str) -> list[str]:
    return [route.path for router in ROUTERS for route in router.routes if method in route.methods]  # type: ignore[attr-defined]


def filled(template: str, values: dict[str, str]) -> str:
    """Returns the path with `values` in place of its parameters. A parameter without a value gets an id that does not exist."""
    return re.sub(r"{(\w+)(?::\w+)?}", lambda found: values.get(found[1], str(uuid4())), template)


def odd_paths(template: str, named: dict[str, str]) -> Iterator[str]:
    for name in re.findall(r"{(\w+)", template):
        for odd in ODD:
            yield filled(template, named | {name: odd})


async def test_odd_paths_and_queries_are_no_errors(gateway: Gateway, log_in: LogIn) -> None:
    tenant = await gateway.add_tenant()
    person, named = await log_in(), {"tenant_id": tenant.id}
    paths = [path for template in routes("GET") for path in odd_paths(template, named)]
    pages = [template.format(**named) for template in routes("GET") if set(re.findall(r"{(\w+)", template)) <= named.keys()]
    paths += [f"{page}?{name}={value}" for page in pages for name in QUERIES for value in [*ODD[:4], *TIMES]]
    paths += [f"{page}?{name}=a&{name}=b" for page in pages for name in QUERIES]
    failed = {path: status for path in paths if (status := (await person.http.get(path)).status_code) >= 500}
    assert failed == {}


@pytest.mark.parametrize("route", [route for route in REQUESTS if "logout" not in route])
async def test_odd_forms_are_no_errors(gateway: Gateway, log_in: LogIn, route: str) -> None:
    tenant, person = await gateway.add_tenant(), await log_in()
    template = route.removeprefix("POST ")
    named = {"tenant_id": tenant.id, "account_sid": tenant.account_sid}
    path = filled(template, named)
    answers: list[tuple[Any, int]] = [(odd, (await person.http.post(odd)).status_code) for odd in odd_paths(template, named)]
    fields = REQUESTS[route][0]
    for name in fields:
        rest = "".join(f"&{other}={quote(value)}" for other, value in fields.items() if other != name)
        for value in [*ODD, *TIMES]:
            answer = await person.http.post(path, content=f"{name}={value}{rest}", headers=FORM)
            answers.append(((name, value[:20]), answer.status_code))
    bodies = (b"a=\xff", b"&".join(b"a%d=1" % number for number in range(600)), b"a=" + b"1" * 2_000_000)
    answers += [(body[:9], (await person.http.post(path, content=body, headers=FORM)).status_code) for body in bodies]
    assert [each for each in answers if each[1] >= 500] == []
