"""Rotates encryption keys: re-encrypts secrets with the newest key, and counts the data that still needs each key.

The rotation is safe while the service runs, because its processes decrypt with any configured key. An interrupted rotation can
be run again.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from app.audit.events import Actor
from app.audit.store import record_audit_event
from app.calls.statistics import count_fingerprints_by_key_id
from app.database.engine import Database, driver_connection
from app.security.keyring import Keyring, SecretUnreadable
from app.tenants.repository import (
    ENCRYPTED_COLUMNS,
    EncryptedColumn,
    api_key_counts_by_hashing_key,
    describe_secret,
    list_rows_with_active_secret,
    lock_rows_to_reencrypt,
    secret_counts_by_encryption_key,
)

_CALLS_PER_PAGE = 50_000


@dataclass(frozen=True, slots=True)
class EncryptionKeyUse:
    """The numbers of secrets, API keys and calls that need one encryption key. An old key can be removed when all are zero."""

    key_id: str
    is_configured: bool
    is_newest: bool
    secrets: int
    api_keys: int
    calls: int

    @property
    def is_needed(self) -> bool:
        """Whether the key must stay configured, because data needs it or because it is the newest."""
        return self.is_newest or bool(self.secrets or self.api_keys or self.calls)


@dataclass(slots=True)
class ReencryptionResult:
    reencrypted_count: int = 0
    unreadable: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class KeyRotation:
    database: Database
    keyring: Keyring
    batch_size: int = 50

    async def reencrypt_secrets(self, actor: Actor) -> ReencryptionResult:
        """Re-encrypts, in batches, every secret that was not encrypted with the newest key.

        Records one audit event for each batch in which a secret was re-encrypted. A secret that no configured key decrypts
        stays as it is. The result lists such secrets, except revoked ones.
        """
        result = ReencryptionResult()
        for encrypted_column in ENCRYPTED_COLUMNS:
            last = None
            while rows := await self._reencrypt_batch(encrypted_column, last, result, actor):
                last = rows[-1].id
        result.unreadable = await self.find_unreadable_secrets()
        return result

    async def find_unreadable_secrets(self) -> list[str]:
        """Returns a text for each stored secret that cannot be decrypted: its name and the reason. Ignores revoked secrets."""
        names: list[str] = []
        for encrypted_column in ENCRYPTED_COLUMNS:
            last = None
            while True:
                async with self.database.begin() as session:
                    rows = await list_rows_with_active_secret(session, encrypted_column, after=last, limit=self.batch_size)
                    names += [
                        f"{await describe_secret(session, encrypted_column, row)}: {reason}"
                        for row in rows
                        if (reason := self._decryption_error(encrypted_column, row))
                    ]
                if not rows:
                    break
                last = rows[-1].id
        return names

    async def count_key_uses(self, *, count_calls: bool = True) -> list[EncryptionKeyUse]:
        """Returns how much data needs each key, configured keys first.

        With `count_calls`, reads all calls, page by page. Without it, the number of calls is 0 for every key.
        """
        secrets: Counter[bytes] = Counter()
        async with self.database.begin() as session:
            for encrypted_column in ENCRYPTED_COLUMNS:
                secrets.update(await secret_counts_by_encryption_key(session, encrypted_column))
            api_keys = await api_key_counts_by_hashing_key(session)
        calls = await self._count_calls() if count_calls else Counter[bytes]()
        ids = list(dict.fromkeys([*self.keyring.configured_key_ids, *secrets, *api_keys, *calls]))
        return [
            EncryptionKeyUse(
                key_id=id_.hex(),
                is_configured=id_ in self.keyring.configured_key_ids,
                is_newest=id_ == self.keyring.newest_key_id,
                secrets=secrets[id_],
                api_keys=api_keys.get(id_, 0),
                calls=calls[id_],
            )
            for id_ in ids
            if len(id_) == len(self.keyring.newest_key_id)  # a truncated secret has a shorter id and counts as unreadable
        ]

    async def _reencrypt_batch(
        self, encrypted_column: EncryptedColumn, last_id: Any, result: ReencryptionResult, actor: Actor
    ) -> Any:
        """Re-encrypts the next batch of a column's secrets. Returns the rows of the batch, or no rows if none are left.

        The batch begins after the row with the id `last_id`, or with the first row if `last_id` is None. Adds the number of
        re-encrypted secrets to `result`.
        """
        reencrypted_count = 0
        async with self.database.begin() as session:
            rows = await lock_rows_to_reencrypt(
                session, encrypted_column, after=last_id, limit=self.batch_size, key_id=self.keyring.newest_key_id
            )
            for row in rows:
                try:
                    encrypted = self.keyring.reencrypt(
                        getattr(row, encrypted_column.column),
                        associated_data=getattr(row, encrypted_column.associated_data_attribute),
                    )
                except SecretUnreadable:
                    continue
                setattr(row, encrypted_column.column, encrypted)
                reencrypted_count += 1
            if reencrypted_count:
                await record_audit_event(
                    await driver_connection(session),
                    actor,
                    action="secrets.rotate",
                    tenant_id=None,
                    subject=self.keyring.newest_key_id.hex(),
                    changed=[f"{encrypted_column.table.__tablename__}.{encrypted_column.column}"],
                )
        result.reencrypted_count += reencrypted_count
        return rows

    def _decryption_error(self, encrypted_column: EncryptedColumn, row: Any) -> str | None:
        """Returns why the row's secret cannot be decrypted, or None if it can."""
        try:
            self.keyring.decrypt(
                getattr(row, encrypted_column.column), associated_data=getattr(row, encrypted_column.associated_data_attribute)
            )
        except SecretUnreadable as error:
            return str(error)
        return None

    async def _count_calls(self) -> Counter[bytes]:
        calls: Counter[bytes] = Counter()
        last = None
        while True:
            async with self.database.begin() as session:
                counted, last = await count_fingerprints_by_key_id(session, after=last, limit=_CALLS_PER_PAGE)
            calls.update(counted)
            if last is None:
                return calls
