"""Limits how many creations one process sends to Twilio at the same time."""

from collections import Counter
from types import TracebackType
from typing import Self

from app.errors import Overloaded, ShuttingDown
from app.observability import Metrics


class InFlightLimiter:
    """Counts and limits the creations that this process sends to Twilio at the same time. Each creation takes a slot.

    A lower limit per tenant leaves slots for other tenants.
    """

    def __init__(self, metrics: Metrics, *, limit: int, limit_per_tenant: int) -> None:
        self._in_flight = metrics.calls.in_flight
        self._limit = limit
        self._limit_per_tenant = limit_per_tenant
        self._taken: Counter[str] = Counter()
        self._closed = False

    def refuse_new_creations(self) -> None:
        """Makes `take_slot` and `require_free_slot` raise ShuttingDown from now on."""
        self._closed = True

    def require_free_slot(self) -> None:
        """Raises Overloaded if no slot of the process is free, and ShuttingDown after `refuse_new_creations`. Takes no slot."""
        if self._closed:
            raise ShuttingDown(retry_after_s=1)
        if self._taken.total() >= self._limit:
            raise Overloaded(retry_after_s=1)

    def take_slot(self, tenant_id: str, own_limit: int | None) -> None:
        """Takes a slot. `own_limit` is the tenant's limit, or None for the default limit.

        Raises Overloaded if the process or the tenant has none left, and ShuttingDown after `refuse_new_creations`.
        """
        self.require_free_slot()
        if self._taken[tenant_id] >= (own_limit or self._limit_per_tenant):
            raise Overloaded(retry_after_s=1)
        self._taken[tenant_id] += 1
        self._in_flight.inc()

    def free_slot(self, tenant_id: str) -> None:
        self._in_flight.dec()
        self._taken[tenant_id] -= 1
        if not self._taken[tenant_id]:
            del self._taken[tenant_id]


class InFlightSlot:
    """A context manager for the slot of one request to create a call. Frees the slot at the end of the block.

    Does not take the slot itself: `with InFlightSlot(slots, tenant_id) as slot: slot.take(own_limit)`.
    """

    __slots__ = ("_is_taken", "_slots", "_tenant_id")

    def __init__(self, slots: InFlightLimiter, tenant_id: str) -> None:
        self._slots = slots
        self._tenant_id = tenant_id
        self._is_taken = False

    def take(self, own_limit: int | None) -> None:
        """Takes the slot. Raises Overloaded if none is free for the tenant, and ShuttingDown after `refuse_new_creations`.

        `own_limit` is the tenant's limit, or None for the default limit.
        """
        self._slots.take_slot(self._tenant_id, own_limit)
        self._is_taken = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        if self._is_taken:
            self._slots.free_slot(self._tenant_id)
