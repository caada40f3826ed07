"""Renders the guides (docs/*.md in the repository) as HTML pages that link to each other."""

import html
import re
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import pairwise
from string import Template
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it.token import Token

_GUIDE_LINK_PATTERN = re.compile(r"(?:([a-z-]+)\.md)?(#.*)?")
_GUIDE_NAME_PATTERN = re.compile(r"[a-z-]+")


def render_guide(name: str) -> bytes | None:
    """Returns the HTML page of docs/{name}.md; None if there is no such guide."""
    if not _GUIDE_NAME_PATTERN.fullmatch(name) or not _source_file(name).is_file():
        return None
    return _render_guide_page(name)


def _source_file(name: str) -> Traversable:
    return files("app.http").joinpath("guides", f"{name}.md")


@cache  # rendering takes about 10 ms, and anyone can request a page; all connections share the bytes
def _render_guide_page(name: str) -> bytes:
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(_source_file(name).read_text(encoding="utf-8"))
    headings = [(token, text.content) for token, text in pairwise(tokens) if token.type == "heading_open"]
    for heading, text in headings:
        heading.attrSet("id", _github_anchor(text))
    for child in (child for token in tokens for child in token.children or ()):
        _rewrite_link(child)
    body = markdown.renderer.render(tokens, markdown.options, {})
    template = Template(files("app.http").joinpath("pages/guide.html").read_text(encoding="utf-8"))
    return template.substitute(title=html.escape(headings[0][1]), body=body).encode()


def _github_anchor(heading: str) -> str:
    """Returns the anchor that GitHub generates for a heading, so that links to the heading work on GitHub and in Callgate."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _rewrite_link(token: "Token") -> None:
    """Changes a link to another guide to the URL of that guide under /docs.

    An image becomes plain text, and so does a link to a file that is not a guide.
    """
    if token.type == "image":
        token.type, token.content, token.tag = "text", str(token.content), ""
    if token.type != "link_open" or "://" in (href := str(token.attrGet("href"))):
        return
    guide = _GUIDE_LINK_PATTERN.fullmatch(href)
    if guide is None:
        del token.attrs["href"]
    elif guide[1]:
        token.attrSet("href", f"/docs/{guide[1]}{guide[2] or ''}")
