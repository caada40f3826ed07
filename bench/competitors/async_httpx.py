"""A service that creates calls, with FastAPI, httpx, and SQLAlchemy's asynchronous sessions on asyncpg."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import httpx
from fastapi import FastAPI, Header, HTTPException, Response
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from bench.competitors.tables import (
    POOL_SIZE,
    UPSTREAM_CONNECTIONS,
    Account,
    Call,
    CallRecord,
    NewCall,
    database_url,
    hash_of,
    upstream_url,
)


def create_app() -> FastAPI:
    engine = create_async_engine(database_url("asyncpg"), pool_size=POOL_SIZE, max_overflow=0)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    http = httpx.AsyncClient(
        base_url=upstream_url(),
        timeout=httpx.Timeout(35, connect=5),
        limits=httpx.Limits(max_connections=UPSTREAM_CONNECTIONS, max_keepalive_connections=UPSTREAM_CONNECTIONS),
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with http:
            yield
        await engine.dispose()

    app = FastAPI(lifespan=lifespan)

    async def place(account: Account, asked: NewCall, call: Call) -> None:
        """Creates the call at Twilio, and sets the outcome in the attributes of `call`. Does not write to the database."""
        form = {"To": asked.to, "From": asked.from_, "Url": asked.url, "Timeout": asked.timeout}
        path = f"/2010-04-01/Accounts/{account.sid}/Calls.json"
        try:
            answer = await http.post(path, data=form, auth=(account.sid, account.auth_token))
            answer.raise_for_status()
            placed = answer.json()
        except httpx.HTTPStatusError as refusal:
            call.execution = "not_started" if refusal.response.is_client_error else "unknown"
        except (httpx.RequestError, ValueError):
            call.execution = "unknown"
        else:
            call.execution, call.sid, call.status = "started", placed["sid"], placed["status"]

    @app.post("/v1/calls", status_code=201)
    async def create_call(
        asked: NewCall,
        response: Response,
        authorization: Annotated[str, Header()],
        idempotency_key: Annotated[str, Header()],
    ) -> CallRecord:
        try:
            async with sessions.begin() as session:
                known = await session.scalars(select(Account).where(Account.key_hash == hash_of(authorization)))
                account = known.one_or_none()
                if account is None:
                    raise HTTPException(401)
                call = Call(account_id=account.id, idempotency_key=idempotency_key, request=asked.model_dump(by_alias=True))
                session.add(call)
        except IntegrityError:
            response.status_code = 200
            async with sessions.begin() as session:
                mine = select(Call).join(Account).where(Account.key_hash == hash_of(authorization))
                earlier = await session.scalars(mine.where(Call.idempotency_key == idempotency_key))
                return CallRecord.model_validate(earlier.one())
        await place(account, asked, call)
        async with sessions.begin() as session:
            session.add(call)
        return CallRecord.model_validate(call)

    return app
