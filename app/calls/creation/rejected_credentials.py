"""Marks credentials that Twilio rejects, so that the next call tries the account's other credentials first."""

import asyncio

from app.calls.creation.dial import Outcome, StartedOutcome
from app.database.engine import Database
from app.tenants.directory import TenantDirectory, UsableAccount
from app.twilio.errors import TwilioCredentialRejected

# How long a client waits for credentials to be marked. If that fails, the next call tries the credentials in the old order.
_MARK_TIMEOUT_S = 2.0


async def update_rejection_marks(
    database: Database, directory: TenantDirectory, account: UsableAccount, outcome: Outcome
) -> None:
    """Marks credentials that Twilio rejected in this dial; later calls try them last. Removes the mark of an accepted one."""
    rejected = {attempt.credential for attempt in outcome.attempts if attempt.result == TwilioCredentialRejected.reason}
    accepted = {outcome.attempts[-1].credential} & account.rejected if isinstance(outcome, StartedOutcome) else set()
    # Each write empties the caches of all processes, so a credential that has a mark is not marked again.
    rejected -= account.rejected
    if rejected or accepted:
        async with asyncio.timeout(_MARK_TIMEOUT_S), database.begin() as session:
            await directory.mark_credentials_rejected_and_accepted(
                session, rejected=rejected, accepted=accepted, reason=TwilioCredentialRejected.reason
            )
