"""SQLAlchemy statements for last uses, for credentials that Twilio refused, and for the encryption keys of stored secrets.

Functions never commit. The SQL of the administration is in `administration_store`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import LargeBinary, Select, and_, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.database.base import Base
from app.security.keyring import KEY_ID_SUBSTRING_IN_CIPHERTEXT, KEY_ID_SUBSTRING_IN_HASH
from app.tenants.models import ApiKey, ApiKeyLastUse, CredentialLastUse, SipCredential, Tenant, TwilioAccount, TwilioCredential


async def find_account_by_sid(session: AsyncSession, *, tenant_id: str, account_sid: str) -> TwilioAccount | None:
    statement = select(TwilioAccount).where(TwilioAccount.tenant_id == tenant_id, TwilioAccount.account_sid == account_sid)
    return (await session.scalars(statement)).one_or_none()


async def set_credential_rejection(session: AsyncSession, credential_ids: Collection[UUID], *, reason: str | None) -> None:
    """Marks credentials as refused by Twilio now or, if `reason` is None, as accepted again."""
    statement = (
        update(TwilioCredential)
        .where(TwilioCredential.id.in_(credential_ids))
        .values(rejected_at=None if reason is None else func.now(), rejected_reason=reason)
    )
    await session.execute(statement)


async def mark_credentials_used(session: AsyncSession, references: Collection[str]) -> None:
    """Records that the credentials with these ids were used now."""
    ids = [UUID(reference) for reference in references]
    used = select(TwilioCredential.id, func.now()).where(TwilioCredential.id.in_(ids)).order_by(TwilioCredential.id)
    await _mark_used(session, CredentialLastUse, "credential_id", used)


async def mark_api_keys_used(session: AsyncSession, prefixes: Collection[str]) -> None:
    """Records that the API keys with these public parts (prefixes) were used now."""
    used = select(ApiKey.id, func.now()).where(ApiKey.prefix.in_(prefixes)).order_by(ApiKey.id)
    await _mark_used(session, ApiKeyLastUse, "key_id", used)


async def _mark_used(session: AsyncSession, table: type[Base], id_column: str, used_query: Any) -> None:
    """Stores times of last use in `table`, whose primary key is `id_column`.

    `used_query` selects pairs of id and time. It must sort them by id, which prevents deadlocks.
    """
    statement = insert(table).from_select([id_column, "last_used_at"], used_query)
    await session.execute(
        statement.on_conflict_do_update(index_elements=[id_column], set_={"last_used_at": statement.excluded.last_used_at})
    )


@dataclass(frozen=True, slots=True)
class EncryptedColumn:
    """A database column with encrypted secrets: the attribute `column` of the SQLAlchemy model `table`.

    Messages call a secret of the column `noun`. `associated_data_attribute` is the attribute of `table` with the associated
    data of the encryption. This data names the row, so a secret that was copied to another row cannot be decrypted.
    """

    noun: str
    table: Any
    column: str
    associated_data_attribute: str

    @property
    def sqlalchemy_column(self) -> Any:
        """The SQLAlchemy column, for use in statements."""
        return getattr(self.table, self.column)

    @property
    def active_secret_condition(self) -> Any:
        """The SQL condition for rows whose secret is set and not revoked."""
        revoked_at = getattr(self.table, "revoked_at", None)
        return (
            self.sqlalchemy_column.is_not(None)
            if revoked_at is None
            else and_(self.sqlalchemy_column.is_not(None), revoked_at.is_(None))
        )


# All columns with encrypted secrets.
ENCRYPTED_COLUMNS = (
    EncryptedColumn("Twilio credential", TwilioCredential, "sealed_secret", "secret_associated_data"),
    EncryptedColumn("callback secret of tenant", Tenant, "sealed_callback_secret", "callback_secret_associated_data"),
    EncryptedColumn("user name of SIP credential", SipCredential, "sealed_username", "username_associated_data"),
    EncryptedColumn("password of SIP credential", SipCredential, "sealed_password", "password_associated_data"),
)


async def describe_secret(session: AsyncSession, column: EncryptedColumn, row: Any) -> str:
    """Returns what messages call the secret of `row` in this column, such as `callback secret of tenant acme`."""
    if isinstance(row, SipCredential):
        return f"{column.noun} {row.name} of tenant {row.tenant_id}"
    if not isinstance(row, TwilioCredential):
        return f"{column.noun} {row.id}"
    account = await session.get_one(TwilioAccount, row.account_id)
    return f"{column.noun} {row.id} of account {account.account_sid} of tenant {account.tenant_id}"


async def list_rows_with_active_secret(
    session: AsyncSession, column: EncryptedColumn, *, after: Any, limit: int
) -> Sequence[Any]:
    """Returns up to `limit` rows with a secret in this column that is not revoked, sorted by id.

    If `after`, an id, is given, returns only rows with a later id.
    """
    statement = _rows_after(column, after, limit).where(column.active_secret_condition)
    return (await session.scalars(statement)).all()


async def lock_rows_to_reencrypt(
    session: AsyncSession, column: EncryptedColumn, *, after: Any, limit: int, key_id: bytes
) -> Sequence[Any]:
    """Locks and returns up to `limit` rows whose secret is encrypted with another key than `key_id`, sorted by id.

    New rows that refer to a locked row, such as calls of a locked tenant, can still be inserted. Includes rows with revoked
    secrets, because `callgate apply` compares the secrets in its file with these, too. If `after`, an id, is given, returns
    only rows with a later id.
    """
    is_other_key = _encryption_key_id_sql(column.sqlalchemy_column, KEY_ID_SUBSTRING_IN_CIPHERTEXT) != key_id
    statement = _rows_after(column, after, limit).where(is_other_key).with_for_update(key_share=True)
    return (await session.scalars(statement)).all()


def _rows_after(column: EncryptedColumn, after: Any, limit: int) -> Select[Any]:
    statement = select(column.table).order_by(column.table.id).limit(limit)
    return statement if after is None else statement.where(column.table.id > after)


async def secret_counts_by_encryption_key(session: AsyncSession, column: EncryptedColumn) -> dict[bytes, int]:
    """Maps the id of each encryption key to the number of active secrets in this column that are encrypted with the key."""
    key_id = _encryption_key_id_sql(column.sqlalchemy_column, KEY_ID_SUBSTRING_IN_CIPHERTEXT)
    found = await session.execute(select(key_id, func.count()).where(column.active_secret_condition).group_by(key_id))
    return dict(found.all())


async def api_key_counts_by_hashing_key(session: AsyncSession) -> dict[bytes, int]:
    """Maps the id of each encryption key to the number of valid API keys that are hashed with the encryption key."""
    key_id = _encryption_key_id_sql(ApiKey.keyed_hash, KEY_ID_SUBSTRING_IN_HASH)
    valid = ApiKey.revoked_at.is_(None), or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now())
    found = await session.execute(select(key_id, func.count()).where(*valid).group_by(key_id))
    return dict(found.all())


async def encryption_key_ids_in_use(session: AsyncSession) -> list[set[bytes]]:
    """Returns a set of ids for each kind of secret: the ids of the encryption keys that the secrets of this kind need.

    Ignores revoked and expired secrets.
    """
    encryption_keys = [set(await secret_counts_by_encryption_key(session, column)) for column in ENCRYPTED_COLUMNS]
    return [*encryption_keys, set(await api_key_counts_by_hashing_key(session))]


def _encryption_key_id_sql(column: Any, position: tuple[int, int]) -> Any:
    """Returns SQL for the id of the encryption key in an encrypted secret or a hash.

    `position` is the number of the id's first byte, counted from 1, and the length of the id in bytes.
    """
    return func.substring(column, *position, type_=LargeBinary)


async def rehash_api_key(session: AsyncSession, key_id: UUID, *, old_hash: bytes, new_hash: bytes) -> None:
    """Replaces the hash of an API key. Does nothing if the hash is not `old_hash` any more: another process has replaced it."""
    await session.execute(update(ApiKey).where(ApiKey.id == key_id, ApiKey.keyed_hash == old_hash).values(keyed_hash=new_hash))
