"""A client that asks Twilio whether it accepts a credential.

Imports no SQLAlchemy, which would double the memory of `callgate accounts rotate`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app import __version__
from app.settings import Settings
from app.twilio.client import TwilioClient, make_http_client
from app.twilio.schemas import Credential


class CredentialChecker:
    def __init__(self, twilio: TwilioClient, *, deadline_s: float) -> None:
        self.twilio = twilio
        self._deadline_s = deadline_s

    async def __call__(self, credential: Credential) -> None:
        """Raises TwilioError unless Twilio accepts the credential. Sends a request that changes nothing at Twilio."""
        await self.twilio.check_credential(credential, deadline_s=self._deadline_s)


@asynccontextmanager
async def open_credential_checker(settings: Settings) -> AsyncIterator[CredentialChecker]:
    """Yields a CredentialChecker that has its own HTTP connection to Twilio. The connection is closed when the block ends."""
    http = make_http_client(
        connect_timeout=settings.twilio_connect_timeout,
        read_timeout=settings.twilio_read_timeout,
        pool_timeout=settings.twilio_pool_timeout,
        keepalive=settings.twilio_keepalive,
        max_connections=1,
        user_agent=f"callgate/{__version__}",
    )
    try:
        yield CredentialChecker(
            TwilioClient(http, base_url=settings.twilio_base_url),
            deadline_s=settings.twilio_connect_timeout + settings.twilio_read_timeout,
        )
    finally:
        await http.aclose()
