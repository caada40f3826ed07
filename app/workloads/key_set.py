"""Keeps the public keys of an issuer (a JSON Web Key Set), which verify the signatures of its tokens.

Reads the keys again at intervals, and earlier if a token has an unknown key. If a read fails, the previous keys stay in use. If
a read finds no usable key, no key stays in use.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import jwt
import structlog
from jwt import PyJWK

from app.observability.metrics import WorkloadMetrics
from app.workloads.tokens import JWT_ALGORITHMS

logger = structlog.stdlib.get_logger(__name__)

RETRY_AFTER_FAILURE_S: Final = 15.0

KeysById = Mapping[str, PyJWK]
"""Public keys by their ids (`kid`)."""
JwkSetState = Literal["ok", "stale", "unavailable"]
"""`stale` means that the last read failed, and that older keys are used.

`unavailable` means that there are no keys: no read has succeeded, or the key set has no usable key.
"""


class JwkSetUnreadable(Exception):
    """A read of the key set has failed. `reason` is a short constant for logs and `callgate doctor`."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class NoUsableKey(JwkSetUnreadable):
    """The key set was read, and none of its keys can be used. Keys from earlier reads are not used any more either."""


class JwkSetUnavailable(Exception):
    """A key is not in the current set, but it may be new and valid: the last read of the key set failed."""


@dataclass(frozen=True, slots=True)
class JwkSetSource:
    """Where a key set comes from and how often it is read.

    `read` returns a JSON Web Key Set (RFC 7517) or raises JwkSetUnreadable.
    """

    location: str
    read: Callable[[], Awaitable[bytes]]
    interval_s: float
    min_interval_s: float
    """The minimum time between the starts of two reads. Tokens with unknown keys cause reads before `interval_s` has passed."""


def parse_jwk_set(body: bytes) -> dict[str, PyJWK]:
    """Returns the usable signature keys by their ids. Ignores all other keys.

    Raises NoUsableKey if there is none, and JwkSetUnreadable if the body is not a key set.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise JwkSetUnreadable("not_json") from None
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise JwkSetUnreadable("not_a_key_set")
    keys = {key.key_id: key for key in map(_usable_key, listed) if key is not None and key.key_id}
    if not keys:
        raise NoUsableKey("no_usable_key")
    return keys


def _usable_key(document: Any) -> PyJWK | None:
    """Returns the public key in an entry of a key set, if it is for an accepted signature algorithm; otherwise None."""
    if not isinstance(document, dict) or document.get("use", "sig") != "sig" or not isinstance(document.get("kid"), str):
        return None
    try:
        key = PyJWK(document)
        is_too_short = key.Algorithm.check_key_length(key.key) is not None
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
        return None
    return None if key.algorithm_name not in JWT_ALGORITHMS or "d" in document or is_too_short else key


class JwkSet:
    """The current keys of an issuer, which are read again at intervals.

    Use the set only inside `async with refreshing_in_background()`.
    """

    def __init__(self, source: JwkSetSource, *, metrics: WorkloadMetrics, on_removed: Callable[[], None]) -> None:
        """Creates an empty set. `on_removed` is called when a read finds that keys were removed or replaced."""
        self._source = source
        self._metrics = metrics
        self._on_removed = on_removed
        self._keys: KeysById = {}
        self._body: bytes | None = None
        self._failure: str | None = None
        self._read_started_at = -source.min_interval_s
        self._reading: asyncio.Task[None] | None = None

    @property
    def state(self) -> JwkSetState:
        if not self._keys:
            return "unavailable"
        return "stale" if self._failure else "ok"

    @contextlib.asynccontextmanager
    async def refreshing_in_background(self) -> AsyncIterator[None]:
        """Reads the set immediately and then at intervals, in a background task, until the block ends.

        A failed read is retried. Until a read succeeds, `find` raises JwkSetUnavailable for keys that it does not know.
        """
        repeating = asyncio.create_task(self._read_repeatedly())
        try:
            yield
        finally:
            tasks = [repeating, *([self._reading] if self._reading else [])]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def has(self, key_id: str) -> bool:
        return key_id in self._keys

    async def find(self, key_id: str) -> PyJWK:
        """Returns the key with this id.

        If the set lacks the key, first reads the set again, because the key may be new. This takes at most `min_interval_s` and
        the time of a read. Raises KeyError if the set still lacks the key, and JwkSetUnavailable if the read fails. Also raises
        JwkSetUnavailable if the last read failed and the next one may not start yet.
        """
        key = self._keys.get(key_id)
        if key is not None:
            return key
        if self._failure and not self._is_reading and self._seconds_until_next_read > 0:
            raise JwkSetUnavailable
        await self._read_again()
        if key_id not in self._keys and self._failure:
            raise JwkSetUnavailable
        return self._keys[key_id]

    @property
    def _is_reading(self) -> bool:
        return self._reading is not None and not self._reading.done()

    @property
    def _seconds_until_next_read(self) -> float:
        return self._read_started_at + self._source.min_interval_s - time.monotonic()

    async def _read_repeatedly(self) -> None:
        while True:
            await self._read_again()
            interval_s = self._source.interval_s
            await asyncio.sleep(min(RETRY_AFTER_FAILURE_S, interval_s) if self._failure else interval_s)

    async def _read_again(self) -> None:
        """Reads the set as soon as `min_interval_s` has passed since the last read. Concurrent calls share one read."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_after_min_interval())
        await asyncio.shield(self._reading)

    async def _read_after_min_interval(self) -> None:
        await asyncio.sleep(max(self._seconds_until_next_read, 0.0))
        self._read_started_at = time.monotonic()
        try:
            body = await self._source.read()
            keys = self._keys if body == self._body else parse_jwk_set(body)
        except NoUsableKey as error:
            self._replace_keys({}, None)
            self._record_failure(error.reason)
        except JwkSetUnreadable as error:
            self._record_failure(error.reason)
        except Exception as error:
            logger.exception("workload_key_set_failed", error=type(error).__name__)
            self._record_failure("unexpected")
        else:
            self._apply_successful_read(keys, body)

    def _record_failure(self, reason: str) -> None:
        """Records that a read has failed, or has found no usable key. Does not change the keys."""
        self._metrics.key_set_reads.labels("failed").inc()
        self._metrics.key_set_stale.set(1)
        if reason != self._failure:  # a lasting failure is logged once
            logger.warning("workload_key_set_unreadable", reason=reason, source=self._source.location, keys=len(self._keys))
        self._failure = reason

    def _apply_successful_read(self, keys: KeysById, body: bytes) -> None:
        """Replaces the set by `keys`, which were parsed from `body`. Records that a read has succeeded."""
        self._metrics.key_set_reads.labels("ok").inc()
        self._metrics.key_set_stale.set(0)
        self._metrics.key_set_read_at.set_to_current_time()
        old = self._keys
        removed = self._replace_keys(keys, body)
        if keys is not old or self._failure:
            logger.info(
                "workload_key_set_read",
                source=self._source.location,
                keys=len(keys),
                added=len(keys.keys() - old.keys()),
                removed=removed,
            )
        self._failure = None

    def _replace_keys(self, keys: KeysById, body: bytes | None) -> int:
        """Replaces the keys. Returns how many of the old keys were removed or replaced.

        `body` is the document with the new keys, or None if there are no usable keys. It is kept: a read that returns the same
        document changes no keys.
        """
        old, self._keys, self._body = self._keys, keys, body
        removed = sum(not _has_same_key(keys, key_id, key) for key_id, key in old.items())
        if removed:
            self._on_removed()
        return removed


def _has_same_key(keys: KeysById, key_id: str, key: PyJWK) -> bool:
    return key_id in keys and bool(keys[key_id].key == key.key)
