"""Encryption keys: seal anew what an older one has sealed, and say what each one is still needed for.

Safe while the service runs, whose processes open with any of the configured keys; whatever is done is done, so what was
interrupted is simply run again.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from app.calls.statistics import count_fingerprints
from app.database.engine import Database
from app.security.keyring import Keyring, SecretUnreadable
from app.tenants.repository import SEALED, SealedColumn, count_hashed, count_sealed, list_sealed, name_of_sealed

_CALLS_AT_ONCE = 50_000


@dataclass(frozen=True, slots=True)
class KeyUse:
    """What was made with one key. An old one may go when there is nothing left."""

    key_id: str
    configured: bool
    newest: bool
    secrets: int
    api_keys: int
    calls: int

    @property
    def needed(self) -> bool:
        return self.newest or bool(self.secrets or self.api_keys or self.calls)


@dataclass(slots=True)
class Resealed:
    done: int = 0
    unreadable: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Rotation:
    database: Database
    keyring: Keyring
    batch: int = 50

    async def reseal(self) -> Resealed:
        """Seal anew whatever another key than the newest has sealed. What does not open is left as it is, and named."""
        result = Resealed()
        for where in SEALED:
            last = None
            while rows := await self._reseal_some(where, last, result):
                last = rows[-1].id
        result.unreadable = await self.unreadable()
        return result

    async def unreadable(self) -> list[str]:
        """The stored secrets that cannot be opened, each with the reason."""
        names: list[str] = []
        for where in SEALED:
            last = None
            while True:
                async with self.database.begin() as session:
                    rows = await list_sealed(session, where, after=last, limit=self.batch)
                    names += [
                        f"{await name_of_sealed(session, where, row)}: {reason}"
                        for row in rows
                        if (reason := self._trouble(where, row))
                    ]
                if not rows:
                    break
                last = rows[-1].id
        return names

    async def uses(self, *, count_calls: bool = True) -> list[KeyUse]:
        """Of each key, the configured ones first. Calls are counted page by page: all of them are read."""
        secrets: Counter[bytes] = Counter()
        async with self.database.begin() as session:
            for where in SEALED:
                secrets.update(await count_sealed(session, where))
            api_keys = await count_hashed(session)
        calls = await self._count_calls() if count_calls else Counter[bytes]()
        ids = list(dict.fromkeys([*self.keyring.ids, *secrets, *api_keys, *calls]))
        return [
            KeyUse(
                key_id=id_.hex(),
                configured=id_ in self.keyring.ids,
                newest=id_ == self.keyring.newest_id,
                secrets=secrets[id_],
                api_keys=api_keys.get(id_, 0),
                calls=calls[id_],
            )
            for id_ in ids
            if len(id_) == len(self.keyring.newest_id)  # what is shorter was cut off, and is among the unreadable
        ]

    async def _reseal_some(self, where: SealedColumn, last: Any, result: Resealed) -> Any:
        async with self.database.begin() as session:
            rows = await list_sealed(session, where, after=last, limit=self.batch, other_than=self.keyring.newest_id)
            for row in rows:
                try:
                    sealed = self.keyring.reseal(getattr(row, where.column), identity=getattr(row, where.identity))
                except SecretUnreadable:
                    continue
                setattr(row, where.column, sealed)
                result.done += 1
        return rows

    def _trouble(self, where: SealedColumn, row: Any) -> str | None:
        """Why the row's secret does not open; None if it does."""
        try:
            self.keyring.open(getattr(row, where.column), identity=getattr(row, where.identity))
        except SecretUnreadable as error:
            return str(error)
        return None

    async def _count_calls(self) -> Counter[bytes]:
        calls: Counter[bytes] = Counter()
        last = None
        while True:
            async with self.database.begin() as session:
                counted, last = await count_fingerprints(session, after=last, limit=_CALLS_AT_ONCE)
            calls.update(counted)
            if last is None:
                return calls
