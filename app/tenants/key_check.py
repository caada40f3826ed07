"""Checks that the configured encryption keys are those of the stored secrets."""

from app.database.engine import Database
from app.security.keyring import Keyring
from app.tenants import repository


async def has_needed_keys(database: Database, keyring: Keyring) -> bool:
    """Returns False if all secrets of one kind, such as Twilio credentials, need keys that are not configured.

    It is enough that one secret of each kind can be decrypted: a lost secret is no reason to refuse all calls. Raises
    DatabaseUnavailable.
    """
    async with database.begin() as session:
        kinds = await repository.key_ids_in_use(session)
    return all(ids & set(keyring.ids) for ids in kinds if ids)
