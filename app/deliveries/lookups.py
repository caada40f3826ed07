"""Looks up the IP addresses of webhook receivers in threads. Limits how many of these threads one tenant can hold."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from weakref import WeakValueDictionary

_MAX_LOOKUPS: Final = 100
MAX_LOOKUPS_PER_TENANT: Final = 12
"""The maximum number of threads that look up addresses for one tenant.

It is also the maximum number of the tenant's delivery attempts in flight (app.jobs.deliver). So a lookup waits only if earlier
lookups of the tenant still hold threads after their attempts have ended.
"""

ResolveHost = Callable[[str], Sequence[str]]
"""A function that returns the IP addresses of a host name. It may block, and raises OSError if the name has no address."""


def resolve_by_system(host: str) -> Sequence[str]:
    """Returns the addresses of a host from the operating system's resolver.

    Blocks until the name server answers or the resolver gives up, which takes a minute with some settings.
    """
    return [str(address[0]) for *_, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]


class HostResolver:
    """Looks up IP addresses of hosts in its own threads. Blocked lookups would otherwise hold all threads of the event loop.

    Python cannot stop a thread. A lookup therefore counts toward its tenant's limit, MAX_LOOKUPS_PER_TENANT, until its thread
    has finished, even if the delivery has timed out. So a tenant with silent name servers cannot take all threads.
    """

    def __init__(self, resolve: ResolveHost) -> None:
        self._resolve = resolve
        self._threads = ThreadPoolExecutor(_MAX_LOOKUPS, thread_name_prefix="resolve")
        # By tenant id. Lookups that wait or run keep their tenant's semaphore alive.
        self._slots: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def resolve_host(self, tenant_id: str, host: str) -> Sequence[str]:
        """Returns the IP addresses of a host. Waits while the tenant has MAX_LOOKUPS_PER_TENANT lookups in threads.

        Raises the errors of `resolve`, the function that was given to the constructor, and RuntimeError if no thread can start.
        """
        slots = self._slots.setdefault(tenant_id, asyncio.Semaphore(MAX_LOOKUPS_PER_TENANT))
        await slots.acquire()
        try:
            lookup = asyncio.get_running_loop().run_in_executor(self._threads, self._resolve, host)
        except RuntimeError:  # no thread can be started
            slots.release()
            raise
        lookup.add_done_callback(lambda _: slots.release())
        return await asyncio.shield(lookup)

    def close(self) -> None:
        """Cancels lookups that have not begun. Does not wait for the others."""
        self._threads.shutdown(wait=False, cancel_futures=True)
