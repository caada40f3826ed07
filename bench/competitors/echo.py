"""A FastAPI service that only returns the request's body. It has no database and no upstream, so it shows the minimum cost."""

from typing import Any

from fastapi import FastAPI


def create_app() -> FastAPI:
    app = FastAPI()

    @app.post("/v1/calls", status_code=201)
    async def create_call(call: dict[str, Any]) -> dict[str, Any]:
        return call

    return app
