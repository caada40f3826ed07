"""Checks that the configured encryption keys are those of the stored secrets."""

from app.database.engine import Database
from app.security.keyring import Keyring
from app.tenants import repository


async def has_needed_keys(database: Database, keyring: Keyring) -> bool:
    """Returns whether at least one secret of each kind, such as Twilio credentials, is encrypted with a configured key.

    Kinds without secrets do not count. Only one is needed, because a lost secret is no reason to refuse all calls. Raises
    DatabaseUnavailable.
    """
    async with database.begin() as session:
        kinds = await repository.key_ids_in_use(session)
    return all(ids & set(keyring.ids) for ids in kinds if ids)
