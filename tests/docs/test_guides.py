"""Tests the guides that the API serves: every page renders, and every link leads to an existing page and heading."""

import re
from pathlib import Path

import pytest

from app.http.guides import render_guide
from tests.support.clients import http_client
from tests.support.gateway import Gateway

_NAMES = sorted(path.stem for path in (Path(__file__).resolve().parents[2] / "docs").glob("*.md"))
_LINK = re.compile(r'<a href="([^"]*)"')


@pytest.mark.parametrize("name", _NAMES)
def test_every_link_of_a_guide_leads_somewhere(name: str) -> None:
    page = _guide_page(name)
    assert "<h1" in page
    assert "<img" not in page
    for link in _LINK.findall(page):
        if link.startswith("https://") or link == "/docs":
            continue
        path, _, anchor = link.partition("#")
        assert not path or path.startswith("/docs/"), link
        target = _guide_page(path.removeprefix("/docs/")) if path else page
        assert target, link
        assert not anchor or f'id="{anchor}"' in target, link


def _guide_page(name: str) -> str:
    return (render_guide(name) or b"").decode()


async def test_the_document_links_to_guides_that_are_served(gateway: Gateway) -> None:
    async with http_client(base_url=gateway.url) as http:
        document = (await http.get("/openapi.json")).text
        links = set(re.findall(r"\]\((/docs/[^)]*)\)", document))
        assert {"/docs/errors", "/docs/migrating"} <= links
        for link in links:
            served = await http.get(link)
            assert served.headers["content-type"].startswith("text/html"), link
        assert "docs/errors.md" not in document


@pytest.mark.parametrize("path", ["/docs/nothing", "/docs/..%2Fapp", "/docs/Errors", "/docs/adr"])
async def test_a_guide_that_is_not_there_is_not_found(gateway: Gateway, path: str) -> None:
    async with http_client(base_url=gateway.url) as http:
        answer = await http.get(path)
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:callgate:problem:not-found")


async def test_the_root_leads_to_the_docs(gateway: Gateway) -> None:
    async with http_client(base_url=gateway.url) as http:
        answer = await http.get("/")
    assert (answer.status_code, answer.headers["location"]) == (307, "/docs")
