"""Limits how many requests of one kind run at the same time, per tenant and per process.

Also limits how long the rendering of a list blocks the event loop. Both limits keep one tenant from slowing down the others
(ADR 25).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, TypeVar
from weakref import WeakValueDictionary

from app.database.connection import Connection
from app.database.pool import TransactionRunner
from app.errors import DatabaseUnavailable, Overloaded

Row = TypeVar("Row")
Result = TypeVar("Result")

ROWS_PER_CHUNK = 50
"""The number of rows that one SQL statement reads while a list is sent."""
CHUNKS_BEFORE_RESPONSE = 2
"""The number of chunks of a list that `list_response` reads before the response starts."""
# Rows rendered between two pauses. They take about a millisecond.
_ROWS_BETWEEN_PAUSES = 10
# A pause takes three times as long as the work before it, which leaves three quarters of the event loop to other requests.
_PAUSE_TO_WORK_RATIO = 3
_OVERLOADED_DETAIL = (
    "Too many requests of this kind are in progress for this tenant or in this process. This one waited, and nothing was done."
)
_DATABASE_FAILED_TEXT: Final = "The database cannot be reached, or took too long to answer."
UNCHANGED_DETAIL: Final = f"{_DATABASE_FAILED_TEXT} Nothing was changed."
CHANGE_IN_DOUBT_DETAIL: Final = (
    f"{_DATABASE_FAILED_TEXT} If this request changes something, it is not certain whether it was changed: repeat the request."
)


class ConcurrencyLimit:
    """Limits how many requests are handled at the same time: `per_process` in all, and `per_tenant` for each tenant."""

    def __init__(self, *, per_process: int, per_tenant: int, max_wait_s: float = 5.0) -> None:
        self._process = asyncio.Semaphore(per_process)
        self._per_tenant = per_tenant
        self._tenants: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._max_wait_s = max_wait_s

    @asynccontextmanager
    async def admit_request(self, tenant_id: str, *, is_wait_unlimited: bool = False) -> AsyncIterator[None]:
        """Waits until the limits allow another request of the tenant. The request counts while the block runs.

        Raises Overloaded after `max_wait_s` seconds, unless `is_wait_unlimited` is true. It must be true if the response has
        started, because no error response can follow then. It must also be true if the request has changed something, because
        Overloaded says that nothing was done.

        The tenant's limit applies before the limit of the process, so a tenant that has reached its limit does not delay other
        tenants.
        """
        own = self._tenants.get(tenant_id) or self._tenants.setdefault(tenant_id, asyncio.Semaphore(self._per_tenant))
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(None if is_wait_unlimited else self._max_wait_s):
                    await stack.enter_async_context(own)
                    await stack.enter_async_context(self._process)
            except TimeoutError:
                raise Overloaded(_OVERLOADED_DETAIL, retry_after_s=1) from None
            yield


@dataclass(slots=True)
class SlotLimitedTransactions:
    """Runs the database transactions of one request. Each transaction waits until `limit` allows another one.

    The limit keeps database connections free for the creation of calls.
    """

    database: TransactionRunner
    limit: ConcurrencyLimit
    tenant_id: str | None
    """The tenant of the client; None for an operator. All operators together may run as many transactions as one tenant."""
    _has_run_transaction: bool = field(default=False, init=False)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Runs one transaction of the request. Raises DatabaseUnavailable if the database cannot run it.

        The `detail` of DatabaseUnavailable says whether the request may have changed something. The request's first transaction
        raises Overloaded if it has to wait for too long. Later transactions wait as long as necessary: an earlier one may have
        changed something, and Overloaded would wrongly say that nothing was done.
        """
        async with self.limit.admit_request(self.tenant_id or "", is_wait_unlimited=self._has_run_transaction):
            is_first, self._has_run_transaction = not self._has_run_transaction, True
            try:
                async with self.database.transaction() as connection:
                    yield connection
            except DatabaseUnavailable as error:
                error.detail = UNCHANGED_DETAIL if is_first and not error.commit_in_doubt else CHANGE_IN_DOUBT_DETAIL
                raise


async def render_rows(rows: Iterable[Row], render: Callable[[Row], bytes]) -> bytes:
    """Returns the rows, each rendered by `render`, joined by commas. Lets other tasks run after every ten rows."""
    remaining, parts = iter(rows), list[bytes]()
    while part := await run_with_pause(lambda: b",".join([render(row) for row in islice(remaining, _ROWS_BETWEEN_PAUSES)])):
        parts.append(part)
    return b",".join(parts)


async def run_with_pause(work: Callable[[], Result]) -> Result:
    """Calls `work`, which blocks the event loop, then pauses and returns the result.

    The pause is three times as long as the CPU time of `work`. So repeated calls leave most of the event loop's time to
    other requests.
    """
    began = time.thread_time()
    result = work()
    await asyncio.sleep(_PAUSE_TO_WORK_RATIO * (time.thread_time() - began))
    return result
