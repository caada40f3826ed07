"""Replaces a Twilio credential by a new one, step by step and without an outage. The database says which step is next.

A new credential is verified, then tried first in the old one's place. The old one is revoked once it is certain that it is not
needed: for a while no request was sent with it and no callback verified by it. An auth token must also be refused by Twilio by
then, because Twilio signs callbacks with the primary one: https://www.twilio.com/docs/iam/api/authtoken.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from pydantic import SecretStr

from app.database.connection import Connection
from app.security.keyring import SecretUnreadable
from app.tenants import administration_store as store
from app.tenants.administration_accounts import AccountAdministration, check_sids
from app.tenants.administration_store import AccountRow, CredentialRow
from app.tenants.errors import NoSuchResource, OperatorError
from app.tenants.rotation_store import give_place, mark_rejected, transaction_start
from app.tenants.stored_secrets import credential_identity
from app.twilio.errors import TwilioCredentialRejected, TwilioError
from app.twilio.schemas import Credential

RotationStep = Literal["promote", "wait", "done"]


@dataclass(frozen=True, slots=True)
class Replacement:
    """An active credential and the active one that has taken its place."""

    account: AccountRow
    old: CredentialRow
    new: CredentialRow


@dataclass(frozen=True, slots=True)
class RotationProgress:
    """What a rotation waits for.

    promote: Twilio still accepts the old auth token. wait: the old credential is revoked at `revoke_at`, unless it is used
    again. done: it is revoked.
    """

    step: RotationStep
    old: CredentialRow
    revoke_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class CredentialRotation(AccountAdministration):
    check_credential: Callable[[Credential], Awaitable[None]]
    """Raises TwilioError unless Twilio accepts the credential."""

    async def find(self, tenant_id: str, *, account_sid: str, key_sid: str | None, old_id: UUID | None) -> Replacement | None:
        """Returns the replacement that is under way; None if there is none.

        With `key_sid`, that by this API key, otherwise that of an auth token. `old_id` selects one of several.
        """
        check_sids(account_sid, key_sid)
        async with self.database.transaction() as connection:
            account = await self._lock_account(connection, tenant_id, account_sid)
            credentials = await _credentials_of_kind(connection, account, key_sid)
        pairs = [
            Replacement(account, old, new)
            for old in credentials
            for new in credentials
            if old.place == new.place
            and _preferred_later(new, old)
            and old_id in (None, old.id)
            and key_sid in (None, new.username)
        ]
        if len({pair.new.place for pair in pairs}) > 1:
            olds = [pair.old for pair in pairs]
            raise OperatorError(f"several credentials are being replaced: choose one with --replace {_ids(olds)}")
        if not pairs:
            return None
        # If the new one is being replaced, too: the oldest by the newest.
        newest = max(pairs, key=lambda pair: pair.new.preferred_at or pair.new.created_at).new
        return min((pair for pair in pairs if pair.new.id == newest.id), key=lambda pair: pair.old.id)

    async def begin(
        self, tenant_id: str, *, account_sid: str, key_sid: str | None, secret: str, old_id: UUID | None
    ) -> Replacement | None:
        """Verifies a new credential, then stores it and lets it take the old one's place.

        A credential that is stored already only takes the place. Returns None if it replaces nothing (any more). Raises
        OperatorError if Twilio refuses it; then nothing has changed.
        """
        async with self.database.transaction() as connection:
            account, stored, old = await self._plan(connection, tenant_id, account_sid, key_sid, secret, old_id)
        if old is None:
            return None
        await self._require_accepted(
            Credential(account_sid, key_sid or account_sid, SecretStr(secret), account.base_url),
            "Twilio refuses the new credential: nothing was changed",
        )
        async with self.database.transaction() as connection:
            account, stored, still_old = await self._plan(connection, tenant_id, account_sid, key_sid, secret, old_id)
            if still_old is None or still_old.id != old.id:
                raise OperatorError("the account's credentials were changed meanwhile: run the command again")
            if stored is None:
                stored = await self._add(connection, account, secret=secret, key_sid=key_sid)
            await give_place(connection, stored.id, place=old.place)
            await self._record(connection, "credential.update", tenant_id, str(stored.id), ["place"])
            active = await self._active(connection, account)
        return Replacement(account, old, active[stored.id])

    async def advance(self, replacement: Replacement, *, quiet: timedelta) -> RotationProgress:
        """Takes the next step if it is time, and returns what the rotation waits for.

        `quiet`: how long the old credential must be unused before it is revoked. Uses are stored a minute late.
        Raises OperatorError if Twilio refuses the new credential, or cannot be asked.
        """
        account, old, new = replacement.account, replacement.old, replacement.new
        accessible = await self._open(account, new)
        if accessible is None:
            raise OperatorError(f"the stored secret of credential {new.id} cannot be opened: revoke it and begin again")
        await self._require_accepted(
            accessible, f"Twilio refuses the new credential {new.id}: the old one stays; revoke the new one and begin again"
        )
        if old.kind == "auth_token" and await self._is_accepted(account, old):
            return RotationProgress("promote", old)
        async with self.database.transaction() as connection:
            await self._lock_account(connection, account.tenant_id, account.account_sid)
            if old.kind == "auth_token":
                await mark_rejected(connection, old.id, reason=TwilioCredentialRejected.reason)
            active = await self._active(connection, account)
            if not {old.id, new.id} <= active.keys():
                raise _revoked_meanwhile()
            old = active[old.id]
            revoke_at = _needed_until(old, active[new.id]) + quiet
            if await transaction_start(connection) < revoke_at:
                return RotationProgress("wait", old, revoke_at)
            old = await store.revoke_credential(connection, old.id)
            await self._record(connection, "credential.revoke", account.tenant_id, str(old.id))
        return RotationProgress("done", old)

    async def _plan(
        self, connection: Connection, tenant_id: str, account_sid: str, key_sid: str | None, secret: str, old_id: UUID | None
    ) -> tuple[AccountRow, CredentialRow | None, CredentialRow | None]:
        """Returns the account, the new credential if it is stored already, and the one that it is to replace, if any."""
        account = await self._lock_account(connection, tenant_id, account_sid)
        stored = await self._find_same(connection, account, secret=secret, key_sid=key_sid)
        if stored is not None and stored.preferred_at is not None and old_id is None:
            return account, stored, None
        credentials = await _credentials_of_kind(connection, account, key_sid)
        return account, stored, _choose_old(account, credentials, stored, old_id)

    async def _active(self, connection: Connection, account: AccountRow) -> dict[UUID, CredentialRow]:
        return {each.id: each for each in await store.list_credentials(connection, [account.id])}

    async def _is_accepted(self, account: AccountRow, credential: CredentialRow) -> bool:
        """Returns whether Twilio accepts a stored credential. One that cannot be opened verifies no callback."""
        accessible = await self._open(account, credential)
        if accessible is None:
            return False
        try:
            await self.check_credential(accessible)
        except TwilioCredentialRejected:
            return False
        except TwilioError as error:
            raise _not_asked(error) from None
        return True

    async def _require_accepted(self, credential: Credential, refusal: str) -> None:
        try:
            await self.check_credential(credential)
        except TwilioCredentialRejected:
            raise OperatorError(refusal) from None
        except TwilioError as error:
            raise _not_asked(error) from None

    async def _open(self, account: AccountRow, credential: CredentialRow) -> Credential | None:
        """Returns an active credential with its secret; None if that cannot be decrypted."""
        async with self.database.transaction() as connection:
            sealed = await store.find_active_secrets(connection, account.id, username=credential.username)
        if credential.id not in sealed:
            raise _revoked_meanwhile()
        try:
            secret = self.keyring.unseal(sealed[credential.id], identity=credential_identity(credential.id))
        except SecretUnreadable:
            return None
        return Credential(account.account_sid, credential.username, SecretStr(secret), account.base_url)


async def _credentials_of_kind(connection: Connection, account: AccountRow, key_sid: str | None) -> list[CredentialRow]:
    kind = "api_key" if key_sid else "auth_token"
    return [credential for credential in await store.list_credentials(connection, [account.id]) if credential.kind == kind]


def _preferred_later(one: CredentialRow, other: CredentialRow) -> bool:
    return one.preferred_at is not None and (other.preferred_at is None or other.preferred_at < one.preferred_at)


def _choose_old(
    account: AccountRow, credentials: Sequence[CredentialRow], stored: CredentialRow | None, old_id: UUID | None
) -> CredentialRow | None:
    """Returns the credential to replace: the one of `old_id`, or the only other one of the same kind."""
    others = [each for each in credentials if stored is None or each.id != stored.id]
    if old_id is not None:
        chosen = [each for each in others if each.id == old_id]
        if not chosen and stored is None:
            raise NoSuchResource("credential", f"account {account.account_sid} has no active credential {old_id} of this kind")
        return chosen[0] if chosen else None
    if not others and stored is None:
        raise OperatorError(f"account {account.account_sid} has no such credential to replace: use `callgate accounts add`")
    if not others:
        return None
    if len(others) > 1 or (stored is not None and (stored.kind == "api_key" or others[0].id > stored.id)):
        raise OperatorError(f"say which credential the new one replaces: --replace {_ids(others)}")
    return others[0]


def _needed_until(old: CredentialRow, new: CredentialRow) -> datetime:
    """Returns the last time at which the old credential was, or may have been, needed."""
    moments = [old.last_used_at, new.preferred_at, old.rejected_at if old.kind == "auth_token" else None]
    return max(moment for moment in moments if moment is not None)


def _ids(credentials: Sequence[CredentialRow]) -> str:
    return " or ".join(str(credential.id) for credential in credentials)


def _revoked_meanwhile() -> OperatorError:
    return OperatorError("one of both credentials was revoked meanwhile: run the command again")


def _not_asked(error: TwilioError) -> OperatorError:
    return OperatorError(f"Twilio could not be asked ({error.reason}), so nothing more was done: run the command again")
