"""A service that handles the whole life of a call: creation, Twilio's callbacks, deliveries to the tenant, and the price.

It is one process with FastAPI, httpx and SQLAlchemy's asynchronous sessions. It verifies a callback, stores it as one event row
and one update of the call, and relays it from a background task. The task keeps its retries in memory, so a restart loses what
was not delivered. The service polls Twilio for prices and, if it has no public URL, also for statuses.
"""

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any
from urllib.parse import parse_qsl
from uuid import UUID, uuid4

import httpx
from fastapi import FastAPI, Header, HTTPException, Request, Response
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from standardwebhooks import Webhook
from twilio.request_validator import RequestValidator

from bench.competitors.life_tables import Account, Call, CallRecord, Event, NewCall
from bench.competitors.tables import POOL_SIZE, UPSTREAM_CONNECTIONS, database_url, hash_of, upstream_url

logger = logging.getLogger(__name__)

EVENTS = ["initiated", "ringing", "answered", "completed"]
FINAL_STATUSES = ("completed", "busy", "no-answer", "failed", "canceled")
POLL_EVERY = timedelta(seconds=2)
CALLBACKS_OVERDUE_AFTER = timedelta(minutes=10)
RETRY_AFTER_S = (1, 5, 30, 120)
MAX_POLLED_TOGETHER = 100


def create_app() -> FastAPI:
    public_url = os.environ["BENCH_PUBLIC_URL"]
    engine = create_async_engine(database_url("asyncpg"), pool_size=POOL_SIZE, max_overflow=0)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    limits = httpx.Limits(max_connections=UPSTREAM_CONNECTIONS, max_keepalive_connections=UPSTREAM_CONNECTIONS)
    twilio = httpx.AsyncClient(base_url=upstream_url(), timeout=httpx.Timeout(35, connect=5), limits=limits)
    tenants = httpx.AsyncClient(timeout=10, limits=limits)
    relays: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with twilio, tenants:
            poller = asyncio.create_task(poll())
            yield
            for task in (poller, *relays):
                task.cancel()
        await engine.dispose()

    app = FastAPI(lifespan=lifespan)

    async def place(account: Account, asked: NewCall, call: Call) -> None:
        """Creates the call at Twilio, and sets the outcome in the attributes of `call`. Does not write to the database."""
        form: dict[str, Any] = {"To": asked.to, "From": asked.from_, "Url": asked.url, "Timeout": asked.timeout}
        if public_url:
            form |= {"StatusCallback": f"{public_url}/callbacks/{call.id}", "StatusCallbackEvent": EVENTS}
        try:
            answer = await twilio.post(
                f"/2010-04-01/Accounts/{account.sid}/Calls.json", data=form, auth=(account.sid, account.auth_token)
            )
            answer.raise_for_status()
            placed = answer.json()
        except httpx.HTTPStatusError as refusal:
            call.execution = "not_started" if refusal.response.is_client_error else "unknown"
        except (httpx.RequestError, ValueError):
            call.execution = "unknown"
        else:
            call.execution, call.sid, call.status = "started", placed["sid"], placed["status"]
            call.poll_at = datetime.now(UTC) + (CALLBACKS_OVERDUE_AFTER if public_url else POLL_EVERY)

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
                call = Call(
                    id=uuid4(),
                    account_id=account.id,
                    idempotency_key=idempotency_key,
                    request=asked.model_dump(by_alias=True),
                    status_callback=asked.status_callback,
                    status_callback_event=asked.status_callback_event,
                )
                session.add(call)
        except IntegrityError:
            response.status_code = 200
            async with sessions.begin() as session:
                mine = select(Call).join(Account).where(Account.key_hash == hash_of(authorization))
                earlier = await session.scalars(mine.where(Call.idempotency_key == idempotency_key))
                return CallRecord.model_validate(earlier.one())
        await place(account, asked, call)
        async with sessions.begin() as session:
            # A callback may have come before the answer.
            stored = await session.get_one(Call, call.id, with_for_update=True)
            stored.execution, stored.sid = call.execution, call.sid
            if stored.sequence < 0:
                stored.status, stored.poll_at = call.status, call.poll_at
        return CallRecord.model_validate(stored)

    @app.post("/callbacks/{call_id}", status_code=204)
    async def take_callback(call_id: UUID, request: Request, x_twilio_signature: Annotated[str, Header()]) -> None:
        fields = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))
        async with sessions.begin() as session:
            call = await session.get(Call, call_id, with_for_update=True)
            if call is None:
                raise HTTPException(404)
            account = await session.get_one(Account, call.account_id)
            url = f"{public_url}{request.url.path}"
            if not RequestValidator(account.auth_token).validate(url, fields, x_twilio_signature):
                raise HTTPException(403)
            event = Event(id=uuid4(), call_id=call.id, fields=fields)
            session.add(event)
            if int(fields["SequenceNumber"]) > call.sequence:
                call.sequence, call.status = int(fields["SequenceNumber"]), fields["CallStatus"]
                if call.status in FINAL_STATUSES:
                    call.duration = int(fields.get("CallDuration", "0"))
                    call.poll_at = datetime.now(UTC) + POLL_EVERY
        name = {"in-progress": "answered"}.get(fields["CallStatus"], fields["CallStatus"])
        if call.status_callback and ("completed" if name in FINAL_STATUSES else name) in call.status_callback_event:
            relay = asyncio.create_task(deliver(account, call.status_callback, event))
            relays.add(relay)
            relay.add_done_callback(relays.discard)

    async def deliver(account: Account, url: str, event: Event) -> None:
        """Sends the event to `url` as a signed webhook (https://www.standardwebhooks.com). Tries up to five times."""
        body = json.dumps({"type": "call.callback", "data": {"fields": event.fields}})
        for retry_after_s in (*RETRY_AFTER_S, None):
            at = datetime.now(UTC)
            headers = {
                "Content-Type": "application/json",
                "webhook-id": str(event.id),
                "webhook-timestamp": str(int(at.timestamp())),
                "webhook-signature": Webhook(account.callback_secret).sign(str(event.id), at, body),
            }
            try:
                (await tenants.post(url, content=body, headers=headers)).raise_for_status()
            except httpx.HTTPError:
                if retry_after_s is None:
                    logger.warning("gave up the delivery of %s", event.id)
                    return
                await asyncio.sleep(retry_after_s)
            else:
                return

    async def poll() -> None:
        while True:
            try:
                async with sessions() as session:
                    due = select(Call, Account).join(Account, Account.id == Call.account_id)
                    found = await session.execute(due.where(Call.poll_at <= datetime.now(UTC)).limit(MAX_POLLED_TOGETHER))
                    calls = found.all()
                await asyncio.gather(*(refresh(call, account) for call, account in calls))
            except Exception:
                logger.exception("polling failed")
                calls = []
            if len(calls) < MAX_POLLED_TOGETHER:
                await asyncio.sleep(0.5)

    async def refresh(call: Call, account: Account) -> None:
        path = f"/2010-04-01/Accounts/{account.sid}/Calls/{call.sid}.json"
        answer = await twilio.get(path, auth=(account.sid, account.auth_token))
        answer.raise_for_status()
        resource = answer.json()
        async with sessions.begin() as session:
            stored = await session.get_one(Call, call.id, with_for_update=True)
            stored.status = resource["status"]
            stored.duration = resource["duration"] and int(resource["duration"])
            stored.price = resource["price"] and Decimal(resource["price"])
            is_priced = stored.price is not None or stored.status in FINAL_STATUSES[1:]
            stored.poll_at = None if is_priced else datetime.now(UTC) + POLL_EVERY

    return app
