"""Checks whether the configured encryption keys are those with which the stored secrets are encrypted."""

from app.database.engine import Database
from app.security.keyring import Keyring
from app.tenants import repository


async def has_encryption_keys_for_stored_secrets(database: Database, keyring: Keyring) -> bool:
    """Returns whether at least one secret of each kind, such as API keys, is encrypted or hashed with a configured key.

    Ignores kinds of which no secret is stored. While this is false, a new process does not become ready and gets no requests.
    That is why one secret of each kind suffices: a single secret whose key is lost must not stop all calls. Raises
    DatabaseUnavailable if the database cannot be used.
    """
    async with database.begin() as session:
        kinds = await repository.encryption_key_ids_in_use(session)
    return all(ids & set(keyring.configured_key_ids) for ids in kinds if ids)
