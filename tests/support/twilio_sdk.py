"""Connects both clients of Twilio's Python package to the gateway: the synchronous one and the asynchronous one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from twilio.http.async_http_client import AsyncTwilioHttpClient
from twilio.http.http_client import TwilioHttpClient
from twilio.rest import Client

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class SdkClients:
    sync: Any
    asynchronous: Any

    async def run(self, work: Callable[[Any], Answer]) -> Answer:
        """Runs `work` with the synchronous client in a thread, because the gateway runs in the test's event loop."""
        return await asyncio.to_thread(work, self.sync)

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, url: str, username: str, password: str, account_sid: str | None = None, **retries: Any
    ) -> AsyncIterator["SdkClients"]:
        http = TwilioHttpClient(timeout=30)
        assert http.session is not None
        http.session.trust_env = False
        async_http = AsyncTwilioHttpClient(**retries)
        clients = []
        for http_client in (http, async_http):
            client = Client(username, password, account_sid, http_client=http_client)
            client.api.base_url = url
            clients.append(client)
        try:
            yield cls(*clients)
        finally:
            http.session.close()
            await async_http.close()
