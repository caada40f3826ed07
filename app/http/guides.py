"""Renders the guides in docs/*.md as HTML, with links between them."""

import html
import re
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import pairwise
from string import Template

from markdown_it import MarkdownIt
from markdown_it.token import Token

_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
_GUIDE = re.compile(r"(?:([a-z-]+)\.md)?(#.*)?")
_NAME = re.compile(r"[a-z-]+")


def render_guide(name: str) -> str | None:
    """The page of docs/{name}.md; None when there is none."""
    if not _NAME.fullmatch(name) or not _source(name).is_file():
        return None
    return _render(name)


def _source(name: str) -> Traversable:
    return files("app.http").joinpath("guides", f"{name}.md")


@cache  # no key is needed to ask for a page, which takes 10 ms to render
def _render(name: str) -> str:
    tokens = _MARKDOWN.parse(_source(name).read_text(encoding="utf-8"))
    headings = [(token, text.content) for token, text in pairwise(tokens) if token.type == "heading_open"]
    for heading, text in headings:
        heading.attrSet("id", _anchor(text))
    for child in (child for token in tokens for child in token.children or ()):
        _lead_home(child)
    body = _MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {})
    template = Template(files("app.http").joinpath("pages/guide.html").read_text(encoding="utf-8"))
    return template.substitute(title=html.escape(headings[0][1]), body=body)


def _anchor(heading: str) -> str:
    """As GitHub names it, so that the same links work in both places."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _lead_home(token: Token) -> None:
    """Links to other guides lead to their pages here; what is only in the repository is no link."""
    if token.type == "image":
        token.type, token.content, token.tag = "text", str(token.content), ""
    if token.type != "link_open" or "://" in (href := str(token.attrGet("href"))):
        return
    guide = _GUIDE.fullmatch(href)
    if guide is None:
        del token.attrs["href"]
    elif guide[1]:
        token.attrSet("href", f"/docs/{guide[1]}{guide[2] or ''}")
