"""Sends callbacks as Twilio does, and keeps a record of each request and answer."""

import asyncio
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Annotated
from urllib.parse import urldefrag, urlencode, urlsplit

from pydantic import Field

from simulator.callback_client import CallbackClient, CallbackError, ConnectError, ReadTimeout
from simulator.config import Clock
from simulator.planned_callback import PlannedCallback
from simulator.retry_settings import CallbackFailure, RetrySettings
from simulator.signature import signature
from simulator.subscription import CallEvent

MAX_CONCURRENT_DELIVERIES = 50
USER_AGENT = "TwilioProxy/1.1"


@dataclass(slots=True)
class Attempt:
    sent_at: datetime
    answered_at: datetime | None = None
    answer_status: int | None = None
    error: Annotated[
        str | None, Field(description="Why there was no answer: the name of an exception, or `total timeout`.")
    ] = None


@dataclass(slots=True)
class Delivery:
    number: Annotated[int, Field(description="Counts the deliveries since the start or the last reset, from 1.")]
    call_sid: str
    account_sid: str
    event: CallEvent
    sequence: int
    call_status: str
    happened_at: datetime
    method: str
    url: Annotated[str, Field(description="The URL as given, with its fragment.")]
    fields: dict[str, str]
    token: Annotated[str, Field(description="I-Twilio-Idempotency-Token.")]
    signature: Annotated[str | None, Field(description="The X-Twilio-Signature. Null if the auth token is unknown.")] = None
    is_duplicate: bool = False
    lost: Annotated[bool, Field(description="Never sent, because a fault lost it.")] = False
    attempts: list[Attempt] = field(default_factory=list)
    delivered: Annotated[bool, Field(description="Whether a 2xx was received.")] = False


class CallbackSender:
    """Sends callbacks, and keeps the newest `max_kept` deliveries (records of what was sent and answered).

    `begun_count` counts all deliveries, including older ones that were deleted.
    """

    def __init__(self, clock: Clock, max_kept: int) -> None:
        self._clock = clock
        self._kept: deque[Delivery] = deque(maxlen=max_kept)
        self._concurrent_sends = asyncio.Semaphore(MAX_CONCURRENT_DELIVERIES)
        self.begun_count = 0

    @property
    def dropped_count(self) -> int:
        return self.begun_count - len(self._kept)

    def deliveries_after(self, number: int) -> Iterator[Delivery]:
        """Yields the kept deliveries whose number is higher than `number`."""
        return islice(self._kept, max(number - self.dropped_count, 0), None)

    def clear(self) -> None:
        self._kept.clear()
        self.begun_count = 0

    def begin_delivery(self, callback: PlannedCallback, *, is_duplicate: bool = False, lost: bool = False) -> Delivery:
        self.begun_count += 1
        delivery = Delivery(
            number=self.begun_count,
            call_sid=callback.call.sid,
            account_sid=callback.call.account_sid,
            event=callback.event,
            sequence=callback.sequence,
            call_status=callback.call_status,
            happened_at=callback.happened_at,
            method=callback.subscription.method,
            url=callback.subscription.url,
            fields=callback.fields(),
            token=callback.idempotency_token,
            is_duplicate=is_duplicate,
            lost=lost,
        )
        self._kept.append(delivery)
        return delivery

    async def send(self, client: CallbackClient, delivery: Delivery, auth_token: str | None) -> None:
        """Sends the callback of `delivery`, and records each attempt in it. Does not follow redirects.

        The fragment of the callback's URL may set the timeouts and the number of retries (`#rc=3`). Without `auth_token`, the
        callback is not signed.
        """
        url, fragment = urldefrag(delivery.url)
        settings = RetrySettings.parse(fragment)
        async with self._concurrent_sends:
            try:
                async with asyncio.timeout(settings.total_timeout_s):
                    request = _build_signed_request(delivery, url, auth_token)
                    for _ in range(1 + settings.retries):
                        failure = await self._attempt(client, request, delivery, settings)
                        if failure not in settings.retried_failures:
                            break
            except TimeoutError:
                delivery.attempts[-1].error = "total timeout"

    async def _attempt(
        self, client: CallbackClient, request: "SignedRequest", delivery: Delivery, settings: RetrySettings
    ) -> CallbackFailure | None:
        attempt = Attempt(sent_at=self._clock())
        delivery.attempts.append(attempt)
        try:
            status = await client.send(
                delivery.method,
                request.url,
                request.headers,
                request.body,
                connect_timeout_s=settings.connect_timeout_s,
                read_timeout_s=settings.read_timeout_s,
            )
        except CallbackError as error:
            attempt.error = type(error).__name__
            return _failure_kind(error)
        attempt.answered_at, attempt.answer_status = self._clock(), status
        delivery.delivered = 200 <= status < 300
        if 400 <= status < 500:
            return CallbackFailure.CLIENT_ERROR
        return CallbackFailure.SERVER_ERROR if status >= 500 else None


@dataclass(frozen=True, slots=True)
class SignedRequest:
    url: str
    headers: dict[str, str]
    body: str


def _build_signed_request(delivery: Delivery, url: str, auth_token: str | None) -> SignedRequest:
    """Returns the request for a callback to `url`, signed with `auth_token` unless that is None.

    Stores the signature in `delivery`. A GET has the callback's fields in the query, which is part of the signed URL.
    """
    headers = {"User-Agent": USER_AGENT, "Accept": "*/*", "I-Twilio-Idempotency-Token": delivery.token}
    signed: Mapping[str, str] = delivery.fields
    body = ""
    if delivery.method == "GET":
        url += ("&" if urlsplit(url).query else "?") + urlencode(signed)
        signed = {}
    else:
        headers["Content-Type"] = "application/x-www-form-urlencoded; charset=UTF-8"
        body = urlencode(signed)
    if auth_token is not None:
        delivery.signature = headers["X-Twilio-Signature"] = signature(auth_token, url, signed.items())
    return SignedRequest(url, headers, body)


def _failure_kind(error: CallbackError) -> CallbackFailure:
    if isinstance(error, ConnectError):
        return CallbackFailure.CONNECT
    return CallbackFailure.READ if isinstance(error, ReadTimeout) else CallbackFailure.OTHER
