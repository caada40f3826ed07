"""Whether the configured encryption keys are the ones that the stored secrets were made with."""

from app.database.engine import Database
from app.security.keyring import Keyring
from app.tenants import repository


async def has_the_right_keys(database: Database, keyring: Keyring) -> bool:
    """False when every secret of one kind (Twilio credentials, say) was made with keys that are not configured.

    One secret that was lost is no reason to refuse all calls. Raises DatabaseUnavailable.
    """
    async with database.begin() as session:
        kinds = await repository.key_ids_in_use(session)
    return all(ids & set(keyring.ids) for ids in kinds if ids)
