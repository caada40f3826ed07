"""Send callbacks like Twilio, and keep what was sent and answered."""

import asyncio
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import datetime
from urllib.parse import urldefrag, urlencode, urlsplit

import httpx
from pydantic import BaseModel, Field

from simulator.config import Clock
from simulator.planned_callback import PlannedCallback
from simulator.retry_settings import Failure, RetrySettings
from simulator.signature import signature
from simulator.subscription import Event

MAX_CONCURRENT = 50
USER_AGENT = "TwilioProxy/1.1"


class Attempt(BaseModel):
    sent_at: datetime
    answered_at: datetime | None = None
    answer_status: int | None = None
    error: str | None = Field(None, description="Why there was no answer: the name of an exception, or `total timeout`.")


class Delivery(BaseModel):
    number: int = Field(description="Counts the deliveries since the start or the last reset, from 1.")
    call_sid: str
    account_sid: str
    event: Event
    sequence: int
    call_status: str
    happened_at: datetime
    method: str
    url: str = Field(description="The URL as given, with its fragment.")
    fields: dict[str, str]
    signature: str | None = Field(None, description="The X-Twilio-Signature. Null if the account's auth token is unknown.")
    token: str = Field(description="I-Twilio-Idempotency-Token.")
    is_duplicate: bool = False
    lost: bool = Field(False, description="Never sent, because a fault lost it.")
    attempts: list[Attempt] = Field(default_factory=list)
    delivered: bool = Field(False, description="Whether a 2xx was received.")


class Deliveries:
    """The newest `max_kept` deliveries. `begun` also counts those that were dropped."""

    def __init__(self, clock: Clock, max_kept: int) -> None:
        self._clock = clock
        self._kept: deque[Delivery] = deque(maxlen=max_kept)
        self._slots = asyncio.Semaphore(MAX_CONCURRENT)
        self.begun = 0

    @property
    def forgotten(self) -> int:
        return self.begun - len(self._kept)

    def __iter__(self) -> Iterator[Delivery]:
        return iter(self._kept)

    def clear(self) -> None:
        self._kept.clear()
        self.begun = 0

    def begin(self, callback: PlannedCallback, *, is_duplicate: bool = False, lost: bool = False) -> Delivery:
        self.begun += 1
        delivery = Delivery(
            number=self.begun,
            call_sid=callback.call.sid,
            account_sid=callback.call.account_sid,
            event=callback.event,
            sequence=callback.sequence,
            call_status=callback.call_status,
            happened_at=callback.happened_at,
            method=callback.subscription.method,
            url=callback.subscription.url,
            fields=callback.fields(),
            token=callback.token,
            is_duplicate=is_duplicate,
            lost=lost,
        )
        self._kept.append(delivery)
        return delivery

    async def send(self, http: httpx.AsyncClient, delivery: Delivery, auth_token: str | None) -> None:
        """Sends the request, and repeats it as the fragment of the URL says. Does not follow redirects."""
        settings = RetrySettings.parse(delivery.url)
        async with self._slots:
            try:
                async with asyncio.timeout(settings.total_timeout_s):
                    request = self._sign(delivery, auth_token)
                    for _ in range(1 + settings.retries):
                        failure = await self._attempt(http, request, delivery, settings)
                        if failure not in settings.retried:
                            break
            except TimeoutError:
                delivery.attempts[-1].error = "total timeout"

    def _sign(self, delivery: Delivery, auth_token: str | None) -> "SignedRequest":
        """Returns the signed request. A GET has the fields in the query, which is part of the signed URL."""
        url, _ = urldefrag(delivery.url)
        fields: Mapping[str, str] = delivery.fields
        if delivery.method == "GET":
            url += ("&" if urlsplit(url).query else "?") + urlencode(fields)
            fields = {}
        if auth_token is not None:
            delivery.signature = signature(auth_token, url, fields.items())
        return SignedRequest(delivery.method, url, fields, delivery.signature, delivery.token)

    async def _attempt(
        self, http: httpx.AsyncClient, request: "SignedRequest", delivery: Delivery, settings: RetrySettings
    ) -> Failure | None:
        attempt = Attempt(sent_at=self._clock())
        delivery.attempts.append(attempt)
        read = settings.read_timeout_s
        timeout = httpx.Timeout(connect=settings.connect_timeout_s, read=read, write=read, pool=None)
        try:
            answer = await request.send(http, timeout)
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            attempt.error = type(error).__name__
            return _failure(error)
        attempt.answered_at, attempt.answer_status = self._clock(), answer.status_code
        delivery.delivered = answer.is_success
        if answer.is_client_error:
            return Failure.CLIENT_ERROR
        return Failure.SERVER_ERROR if answer.is_server_error else None


class SignedRequest:
    def __init__(self, method: str, url: str, fields: Mapping[str, str], signature_value: str | None, token: str) -> None:
        self._method = method
        self._url = url
        self._content = urlencode(fields) if method == "POST" else None
        self._headers = {"User-Agent": USER_AGENT, "Accept": "*/*", "I-Twilio-Idempotency-Token": token}
        if signature_value is not None:
            self._headers["X-Twilio-Signature"] = signature_value
        if method == "POST":
            self._headers["Content-Type"] = "application/x-www-form-urlencoded; charset=UTF-8"

    async def send(self, http: httpx.AsyncClient, timeout: httpx.Timeout) -> httpx.Response:  # noqa: ASYNC109 - one per phase
        return await http.request(self._method, self._url, content=self._content, headers=self._headers, timeout=timeout)


def _failure(error: Exception) -> Failure:
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return Failure.CONNECT
    return Failure.READ if isinstance(error, httpx.ReadTimeout) else Failure.OTHER
