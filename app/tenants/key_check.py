"""Checks that the configured encryption keys are those of the stored secrets."""

from app.database.engine import Database
from app.security.keyring import Keyring
from app.tenants import repository


async def has_the_right_keys(database: Database, keyring: Keyring) -> bool:
    """Returns False if all secrets of one kind (Twilio credentials, for example) need keys that are not configured.

    A single lost secret is not a reason to refuse all calls. Raises DatabaseUnavailable.
    """
    async with database.begin() as session:
        kinds = await repository.key_ids_in_use(session)
    return all(ids & set(keyring.ids) for ids in kinds if ids)
