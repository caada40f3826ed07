"""A service that creates calls, with FastAPI's thread pool, twilio-python, and SQLAlchemy's synchronous sessions on psycopg."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import anyio.to_thread
import requests
from fastapi import FastAPI, Header, HTTPException, Response
from sqlalchemy import create_engine, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import sessionmaker
from twilio.base.exceptions import TwilioRestException
from twilio.http.http_client import TwilioHttpClient
from twilio.rest import Client

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
    engine = create_engine(database_url("psycopg"), pool_size=POOL_SIZE, max_overflow=0)
    sessions = sessionmaker(engine, expire_on_commit=False)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # The default of 40 would soon be used up by a slow upstream.
        anyio.to_thread.current_default_thread_limiter().total_tokens = UPSTREAM_CONNECTIONS
        yield
        engine.dispose()

    app = FastAPI(lifespan=lifespan)

    def place(account: Account, asked: NewCall, call: Call) -> None:
        """Creates the call at Twilio, and sets the outcome in the attributes of `call`. Does not write to the database."""
        # A client for each request: the SDK's HTTP client stores the last answer in an attribute (twilio 9.13,
        # http_client.py), so a thread that shares it may get another thread's call.
        client = Client(account.sid, account.auth_token, http_client=TwilioHttpClient(timeout=35))
        client.api.base_url = upstream_url()
        try:
            placed = client.calls.create(to=asked.to, from_=asked.from_, url=asked.url, timeout=asked.timeout)
        except TwilioRestException as refusal:
            call.execution = "not_started" if refusal.status < 500 else "unknown"
        except requests.RequestException:
            call.execution = "unknown"
        else:
            call.execution, call.sid, call.status = "started", placed.sid, placed.status

    @app.post("/v1/calls", status_code=201)
    def create_call(
        asked: NewCall,
        response: Response,
        authorization: Annotated[str, Header()],
        idempotency_key: Annotated[str, Header()],
    ) -> CallRecord:
        try:
            with sessions.begin() as session:
                account = session.scalars(select(Account).where(Account.key_hash == hash_of(authorization))).one_or_none()
                if account is None:
                    raise HTTPException(401)
                call = Call(account_id=account.id, idempotency_key=idempotency_key, request=asked.model_dump(by_alias=True))
                session.add(call)
        except IntegrityError:
            response.status_code = 200
            with sessions.begin() as session:
                mine = select(Call).join(Account).where(Account.key_hash == hash_of(authorization))
                earlier = session.scalars(mine.where(Call.idempotency_key == idempotency_key)).one()
            return CallRecord.model_validate(earlier)
        place(account, asked, call)
        with sessions.begin() as session:
            session.add(call)
        return CallRecord.model_validate(call)

    return app
