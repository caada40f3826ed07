"""Serves /openapi.json from memory, rendered once."""

import asyncio
import hashlib
import json
from collections.abc import Callable
from functools import cache
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from app.http.routes import public


def serve_document(app: Starlette, path: str, build_document: Callable[[], dict[str, Any]]) -> None:
    """Adds a route at `path` that serves the document returned by `build_document` as JSON, with an ETag.

    The document is built and rendered once, at the first request. Removes FastAPI's own route at `path`, which renders the
    document for every request.
    """

    @cache
    def rendered() -> tuple[bytes, str]:
        content = json.dumps(build_document(), ensure_ascii=False, separators=(",", ":")).encode()
        return content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'

    @public
    async def answer(request: Request) -> Response:
        content, etag = await asyncio.to_thread(rendered)
        headers = {"ETag": etag, "Cache-Control": "no-cache"}
        if _is_etag_listed(request.headers.get("If-None-Match", ""), etag):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type="application/json")

    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", None) != path]
    app.router.add_route(path, answer, include_in_schema=False)


def _is_etag_listed(if_none_match: str, etag: str) -> bool:
    """Returns whether the value of If-None-Match lists the ETag or is `*`, by the weak comparison of RFC 9110 §13.1.2."""
    return if_none_match.strip() == "*" or etag in (each.strip().removeprefix("W/") for each in if_none_match.split(","))
