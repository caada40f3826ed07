"""A tenant's receiver of deliveries: a real HTTP server that checks signatures, records requests and fails on purpose."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError
from twilio.request_validator import RequestValidator


@dataclass(frozen=True, slots=True)
class Received:
    path: str
    webhook_id: str
    call_sid: str
    call_status: str
    is_signed: bool
    at: float
    answered: int | None
    """The status of the answer. None if the receiver closed the connection without an answer."""


@dataclass
class Receiver:
    """A receiver of deliveries in the format `twilio` at `/twilio/…` and `json` at `/json/…`. Never answers at `/hang/…`."""

    secrets: dict[str, str] = field(default_factory=dict)
    """The secrets for signatures, by tenant. The tenant is the second part of the path."""
    failing_share: float = 0.0
    choice: random.Random = field(default_factory=random.Random)
    received: list[Received] = field(default_factory=list)
    hanging: int = 0
    url: str = ""

    async def handle(self, request: web.BaseRequest) -> web.Response:
        form, tenant = request.path.strip("/").split("/")
        body = (await request.read()).decode()
        if form == "hang":
            self.hanging += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.hanging -= 1
        read = self._read_json if form == "json" else self._read_form
        fields, webhook_id, is_signed = read(self.secrets[tenant], request, body)
        answer: int | None = 204
        if self.choice.random() < self.failing_share:
            answer = self.choice.choice((500, 503, 429, None))
        call_sid, status = fields.get("CallSid", ""), fields.get("CallStatus", "")
        self.received.append(Received(request.path, webhook_id, call_sid, status, is_signed, time.time(), answer))
        if answer is None and request.transport is not None:
            request.transport.abort()
        return web.Response(status=answer or 500)

    def _read_form(self, secret: str, request: web.BaseRequest, body: str) -> tuple[Mapping[str, str], str, bool]:
        posted = dict(parse_qsl(body, keep_blank_values=True))
        is_signed = RequestValidator(secret).validate(
            self.url + request.path_qs, posted, request.headers.get("X-Twilio-Signature", "")
        )
        return posted or dict(request.query), request.headers.get("I-Twilio-Idempotency-Token", ""), bool(is_signed)

    def _read_json(self, secret: str, request: web.BaseRequest, body: str) -> tuple[Mapping[str, str], str, bool]:
        webhook_id = request.headers.get("webhook-id", "")
        try:
            event = Webhook(secret).verify(body, dict(request.headers))
        except WebhookVerificationError:
            return {}, webhook_id, False
        return event["data"]["fields"], webhook_id, True


@asynccontextmanager
async def receiving(receiver: Receiver) -> AsyncIterator[Receiver]:
    server = web.Server(receiver.handle, handler_cancellation=True)  # a hanging request ends with its connection
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=512)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield receiver
    finally:
        await runner.cleanup()
