"""Send one request to a URL that a tenant chose, and trust nothing that comes of it.

The name is resolved here and nowhere else, each address is judged, and only judged ones are dialled: a name that answers
differently the next time gains nothing.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Final, Literal, NamedTuple, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from app import __version__
from app.deliveries.addresses import AllowList, UrlError, is_allowed, read_url

CONNECT_TIMEOUT_S: Final = 5.0
READ_TIMEOUT_S: Final = 10.0
TOTAL_TIMEOUT_S: Final = 20.0
"""With the wait for a free place, so that no receiver keeps one for longer."""
MOST_OF_BODY: Final = 4096
MOST_CONNECTIONS: Final = 100
MOST_PER_HOST: Final = 32

SendError = Literal["invalid_url", "refused_address", "resolve", "connect", "tls", "timeout", "lost"]
Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""The addresses of a name; OSError when it has none."""


class Sent(NamedTuple):
    """What became of it: a status, or one word for why there is none. After `timeout` and `lost` it may have arrived."""

    status: int | None
    error: SendError | None


class Sender:
    """Requests without redirects, cookies or proxies, each on a connection of its own. Close it in the end."""

    def __init__(
        self,
        allowed: AllowList,
        *,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        read_timeout_s: float = READ_TIMEOUT_S,
        total_timeout_s: float = TOTAL_TIMEOUT_S,
    ) -> None:
        self._allowed = allowed
        self._threads = ThreadPoolExecutor(MOST_CONNECTIONS, thread_name_prefix="resolve")
        # A waiting connection would save a handshake, and lose the delivery that meets it while the receiver closes it.
        connector = aiohttp.TCPConnector(
            resolver=_JudgingResolver(resolve or self._ask_system, allowed, connect_timeout_s),
            ssl=tls or ssl.create_default_context(),
            limit=MOST_CONNECTIONS,
            limit_per_host=MOST_PER_HOST,
            force_close=True,
            ttl_dns_cache=0,  # nothing is kept, but those who ask for a name at the same moment share the question
        )
        self._http = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=total_timeout_s, sock_connect=connect_timeout_s, sock_read=read_timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            headers={"User-Agent": f"Callgate/{__version__}", "Accept": "*/*"},
            skip_auto_headers=("Accept-Encoding", "Content-Type"),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends what is under way. A name server that is still being waited for does not hold this up."""
        await self._http.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Sent:
        """One attempt; a fragment is not sent. Raises nothing for what the network or the receiver does."""
        target = read_url(url, self._allowed)
        if isinstance(target, UrlError):
            is_address = target.code in ("url_address_refused", "url_address_private")
            return Sent(None, "refused_address" if is_address else "invalid_url")
        try:
            # As it was signed: yarl would spell some of it in another way.
            async with self._http.request(
                method, URL(url, encoded=True), headers=headers, data=body or None, allow_redirects=False
            ) as response:
                with suppress(aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError):
                    # A receiver that answers in a few words is let finish; the answer is its status.
                    await response.content.readexactly(MOST_OF_BODY)
                return Sent(response.status, None)
        except _AddressRefused:
            return Sent(None, "refused_address")
        except aiohttp.InvalidURL:
            return Sent(None, "invalid_url")
        except aiohttp.ClientConnectorDNSError:
            return Sent(None, "resolve")
        except (aiohttp.ClientSSLError, ssl.SSLError):
            return Sent(None, "tls")
        except TimeoutError:
            return Sent(None, "timeout")
        except aiohttp.ClientConnectorError:
            return Sent(None, "connect")
        except (aiohttp.ClientError, OSError):
            return Sent(None, "lost")

    async def _ask_system(self, host: str) -> Sequence[str]:
        """In threads of our own: the loop's few are soon all waiting when the name server of one tenant is dead."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
        return [str(address[0]) for *_, address in found]


class _AddressRefused(Exception):
    pass


class _JudgingResolver(AbstractResolver):
    """What it lets through is what aiohttp dials, without asking again."""

    def __init__(self, resolve: Resolve, allowed: AllowList, timeout_s: float) -> None:
        self._resolve = resolve
        self._allowed = allowed
        self._timeout_s = timeout_s

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        try:
            async with asyncio.timeout(self._timeout_s):
                addresses = await self._resolve(host)
        except TimeoutError:
            raise OSError("no answer in time") from None
        except UnicodeError:
            raise OSError("no name that could be asked for") from None
        if not addresses:
            raise OSError("no address")
        fit = [address for address in addresses if is_allowed(address, host, self._allowed)]
        if not fit:
            raise _AddressRefused
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in fit
        ]

    async def close(self) -> None:
        pass
