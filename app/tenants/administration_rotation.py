"""Replaces a Twilio credential in steps, without an outage. The state in the database determines the next step.

1. The new credential is stored after Twilio has accepted it. From then on, requests try it before the old credential.
2. An old auth token is kept until Twilio refuses it, because Twilio signs callbacks with the primary auth token:
   https://www.twilio.com/docs/iam/api/authtoken.
3. The old credential is revoked after a time in which no request was sent and no callback was verified with it.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from pydantic import SecretStr

from app.database.connection import Connection
from app.errors import CommandUnfinished
from app.security.keyring import SecretUnreadable
from app.tenants import administration_store as store
from app.tenants.administration_accounts import AccountAdministration, require_valid_sids
from app.tenants.administration_store import AccountRow, CredentialRow
from app.tenants.errors import AdministrationError, NoSuchResource
from app.tenants.rotation_store import mark_credential_rejected, put_credential_before_replaced, transaction_start
from app.tenants.stored_secrets import associated_data_of_credential
from app.twilio.errors import TwilioCredentialRejected, TwilioError
from app.twilio.schemas import Credential

RotationStep = Literal["promote", "wait", "done"]


class RotationUnfinished(CommandUnfinished, AdministrationError):
    """The rotation of a Twilio credential stopped before its next step. Running the same command again continues it."""


@dataclass(frozen=True, slots=True)
class CredentialReplacement:
    """A rotation of a Twilio credential that has begun. Both credentials are active, and requests try `new` before `old`."""

    account: AccountRow
    old: CredentialRow
    new: CredentialRow


@dataclass(frozen=True, slots=True)
class RotationProgress:
    """The state of a rotation. `step` says what comes next:

    - "promote": an operator must promote the new auth token at Twilio, because Twilio still accepts the old one.
    - "wait": the old credential can be revoked at `revoke_at`, or later if it is used again.
    - "done": nothing. The old credential is revoked.
    """

    step: RotationStep
    old: CredentialRow
    revoke_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class CredentialRotation(AccountAdministration):
    check_credential: Callable[[Credential], Awaitable[None]]
    """A function that raises TwilioError unless Twilio accepts the credential."""

    async def find_replacement(
        self, tenant_id: str, *, account_sid: str, key_sid: str | None, old_id: UUID | None
    ) -> CredentialReplacement | None:
        """Returns the unfinished replacement of one of the account's credentials; None if no replacement is under way.

        If `key_sid` is None, looks only for replacements of auth tokens. Otherwise looks only for replacements by the API key
        with the SID `key_sid`. If `old_id` is not None, looks only for the replacement of the credential with the id `old_id`.
        Raises AdministrationError if several credentials are being replaced and `old_id` is None.
        """
        require_valid_sids(account_sid, key_sid)
        async with self.database.transaction() as connection:
            account = await self._lock_account(connection, tenant_id, account_sid)
            credentials = await _active_credentials_of_kind(connection, account, key_sid)
        pairs = [
            CredentialReplacement(account, old, new)
            for old in credentials
            for new in credentials
            if old.place == new.place
            and _is_tried_before(new, old)
            and old_id in (None, old.id)
            and key_sid in (None, new.username)
        ]
        if len({pair.new.place for pair in pairs}) > 1:
            olds = [pair.old for pair in pairs]
            raise AdministrationError(
                f"several credentials are being replaced: choose one with --replace {_join_credential_ids(olds)}"
            )
        if not pairs:
            return None
        # A new credential may be replaced before its own rotation has ended: then return the newest and the oldest credential.
        newest = max(pairs, key=lambda pair: pair.new.preferred_at or pair.new.created_at).new
        return min((pair for pair in pairs if pair.new.id == newest.id), key=lambda pair: pair.old.id)

    async def begin_replacement(
        self, tenant_id: str, *, account_sid: str, key_sid: str | None, secret: str, old_id: UUID | None
    ) -> CredentialReplacement | None:
        """Stores a new credential that Twilio accepts, and makes Callgate try it before the old one.

        `old_id` is the id of the old credential. It may be None if the account has only one other credential of the same kind.
        If the new credential is stored already, changes only the order in which Callgate tries the credentials. If the same
        replacement has begun already, for example by another operator, returns it unchanged.

        Returns None and changes nothing if the new credential is stored already and no old credential is left. Raises
        AdministrationError and changes nothing if Twilio refuses the new credential or does not answer, or if it is unclear
        which credential is the old one.
        """
        async with self.database.transaction() as connection:
            account, stored, old = await self._find_new_and_old_credential(
                connection, tenant_id, account_sid, key_sid, secret, old_id
            )
        if old is None:
            return await self.find_replacement(tenant_id, account_sid=account_sid, key_sid=key_sid, old_id=old_id)
        await self._require_accepted_by_twilio(
            Credential(account_sid, key_sid or account_sid, SecretStr(secret), account.base_url),
            "Twilio refuses the new credential: nothing was changed",
        )
        async with self.database.transaction() as connection:
            account, stored, still_old = await self._find_new_and_old_credential(
                connection, tenant_id, account_sid, key_sid, secret, old_id
            )
            if still_old is None or still_old.id != old.id:
                raise RotationUnfinished("the account's credentials were changed meanwhile: run the command again")
            if stored is None:
                stored = await self._insert_credential(connection, account, secret=secret, key_sid=key_sid)
            await put_credential_before_replaced(connection, stored.id, place=old.place)
            await self._record_audit_event(connection, "credential.update", tenant_id, str(stored.id), ["place"])
            active = await self._active_credentials_by_id(connection, account)
        return CredentialReplacement(account, old, active[stored.id])

    async def advance_replacement(self, replacement: CredentialReplacement, *, min_unused_time: timedelta) -> RotationProgress:
        """Revokes the old credential if it is not needed any more. Returns the state of the rotation.

        An old auth token is needed while Twilio accepts it. Every old credential is needed until it has been unused for
        `min_unused_time`, which should be more than a minute, because uses are stored up to a minute late.
        Raises AdministrationError if the old or the new credential has been revoked, if Twilio does not answer, or if the new
        credential cannot be decrypted, is refused by Twilio, or was refused for an earlier request.
        """
        account, old, new = replacement.account, replacement.old, replacement.new
        decrypted = await self._decrypt_active_credential(account, new)
        if decrypted is None:
            raise AdministrationError(f"the stored secret of credential {new.id} cannot be opened: revoke it and begin again")
        await self._require_accepted_by_twilio(
            decrypted, f"Twilio refuses the new credential {new.id}: the old one stays; revoke the new one and begin again"
        )
        is_promotion_needed = old.kind == "auth_token" and await self._is_accepted_by_twilio(account, old)
        async with self.database.transaction() as connection:
            await self._lock_account(connection, account.tenant_id, account.account_sid)
            if old.kind == "auth_token" and not is_promotion_needed:
                await mark_credential_rejected(connection, old.id, reason=TwilioCredentialRejected.reason)
            active = await self._active_credentials_by_id(connection, account)
            if not {old.id, new.id} <= active.keys():
                raise _revoked_meanwhile_error()
            _require_not_rejected(active[new.id])
            old = active[old.id]
            if is_promotion_needed:
                return RotationProgress("promote", old)
            revoke_at = _old_credential_needed_until(old, active[new.id]) + min_unused_time
            if await transaction_start(connection) < revoke_at:
                return RotationProgress("wait", old, revoke_at)
            old = await store.revoke_credential(connection, old.id)
            await self._record_audit_event(connection, "credential.revoke", account.tenant_id, str(old.id))
        return RotationProgress("done", old)

    async def _find_new_and_old_credential(
        self, connection: Connection, tenant_id: str, account_sid: str, key_sid: str | None, secret: str, old_id: UUID | None
    ) -> tuple[AccountRow, CredentialRow | None, CredentialRow | None]:
        """Returns the account, the new credential, and the old credential, which the new one is to replace.

        The new credential is None if it is not stored yet. If it is stored, the old credential is None in two cases:
        - `old_id` is None, and an earlier call of `begin_replacement` has already put the new credential before another one.
        - No active credential has the id `old_id` or, if `old_id` is None, no other credential of the same kind is active.

        Raises AdministrationError in the same cases as `_choose_credential_to_replace`.
        """
        account = await self._lock_account(connection, tenant_id, account_sid)
        stored = await self._find_credential_by_secret(connection, account, secret=secret, key_sid=key_sid)
        if stored is not None and stored.preferred_at is not None and old_id is None:
            return account, stored, None
        credentials = await _active_credentials_of_kind(connection, account, key_sid)
        return account, stored, _choose_credential_to_replace(account, credentials, stored, old_id)

    async def _active_credentials_by_id(self, connection: Connection, account: AccountRow) -> dict[UUID, CredentialRow]:
        return {each.id: each for each in await store.list_credentials(connection, [account.id])}

    async def _is_accepted_by_twilio(self, account: AccountRow, credential: CredentialRow) -> bool:
        """Returns whether Twilio accepts a stored credential. Raises AdministrationError if Twilio does not answer.

        Returns False if the credential's secret cannot be decrypted, because such a credential cannot be used.
        """
        decrypted = await self._decrypt_active_credential(account, credential)
        if decrypted is None:
            return False
        try:
            await self.check_credential(decrypted)
        except TwilioCredentialRejected:
            return False
        except TwilioError as error:
            raise _twilio_unavailable_error(error) from None
        return True

    async def _require_accepted_by_twilio(self, credential: Credential, refusal: str) -> None:
        """Raises AdministrationError if Twilio refuses the credential (`refusal` is then the message) or does not answer."""
        try:
            await self.check_credential(credential)
        except TwilioCredentialRejected:
            raise AdministrationError(refusal) from None
        except TwilioError as error:
            raise _twilio_unavailable_error(error) from None

    async def _decrypt_active_credential(self, account: AccountRow, credential: CredentialRow) -> Credential | None:
        """Returns an active credential with its decrypted secret; None if the secret cannot be decrypted.

        Raises RotationUnfinished if the credential is no longer active.
        """
        async with self.database.transaction() as connection:
            encrypted_secrets = await store.find_encrypted_secrets(connection, account.id, username=credential.username)
        if credential.id not in encrypted_secrets:
            raise _revoked_meanwhile_error()
        try:
            secret = self.keyring.decrypt(
                encrypted_secrets[credential.id], associated_data=associated_data_of_credential(credential.id)
            )
        except SecretUnreadable:
            return None
        return Credential(account.account_sid, credential.username, SecretStr(secret), account.base_url)


async def _active_credentials_of_kind(connection: Connection, account: AccountRow, key_sid: str | None) -> list[CredentialRow]:
    """Returns the account's active API keys or, if `key_sid` is None, its active auth tokens."""
    kind = "api_key" if key_sid else "auth_token"
    return [credential for credential in await store.list_credentials(connection, [account.id]) if credential.kind == kind]


def _is_tried_before(one: CredentialRow, other: CredentialRow) -> bool:
    return one.preferred_at is not None and (other.preferred_at is None or other.preferred_at < one.preferred_at)


def _choose_credential_to_replace(
    account: AccountRow, credentials: Sequence[CredentialRow], stored: CredentialRow | None, old_id: UUID | None
) -> CredentialRow | None:
    """Returns the credential to replace: the one with the id `old_id` or, if that is None, the only other one in `credentials`.

    `credentials` are the account's active auth tokens, or its active API keys. `stored` is the new credential, or None if
    it is not stored yet. If nothing is to be replaced, returns None if `stored` is given; otherwise raises AdministrationError.

    If `old_id` is None, also raises AdministrationError in three cases, because the credential to replace is unclear:
    - There are several credentials beside the new one.
    - The new credential is an API key and is stored already.
    - The new credential is stored already, and the only other credential was stored later.
    """
    others = [each for each in credentials if stored is None or each.id != stored.id]
    if old_id is not None:
        chosen = [each for each in others if each.id == old_id]
        if not chosen and stored is None:
            raise NoSuchResource("credential", f"account {account.account_sid} has no active credential {old_id} of this kind")
        return chosen[0] if chosen else None
    if not others and stored is None:
        raise AdministrationError(f"{account.account_sid} has no such credential to replace: use `callgate accounts add`")
    if not others:
        return None
    if len(others) > 1 or (stored is not None and (stored.kind == "api_key" or others[0].id > stored.id)):
        raise AdministrationError(f"say which credential the new one replaces: --replace {_join_credential_ids(others)}")
    return others[0]


def _require_not_rejected(new: CredentialRow) -> None:
    """Raises AdministrationError if Twilio has refused the new credential for a request.

    The rotation only checks that the new credential can read calls. Twilio may still refuse a restricted API key for creations.
    """
    if new.rejected_at is not None:
        raise AdministrationError(
            f"Twilio refused the new credential {new.id} for a request at {new.rejected_at.isoformat(timespec='seconds')}: "
            "the old one stays; revoke the new one and begin again with one that may create calls"
        )


def _old_credential_needed_until(old: CredentialRow, new: CredentialRow) -> datetime:
    """Returns the last time at which the old credential was needed.

    This is the latest of these times: when the old credential was last used, when Callgate began to try the new credential
    first and, for an auth token, when Twilio refused the old one.
    """
    moments = [old.last_used_at, new.preferred_at, old.rejected_at if old.kind == "auth_token" else None]
    return max(moment for moment in moments if moment is not None)


def _join_credential_ids(credentials: Sequence[CredentialRow]) -> str:
    return " or ".join(str(credential.id) for credential in credentials)


def _revoked_meanwhile_error() -> RotationUnfinished:
    return RotationUnfinished("one of both credentials was revoked meanwhile: run the command again")


def _twilio_unavailable_error(error: TwilioError) -> RotationUnfinished:
    return RotationUnfinished(f"Twilio could not be asked ({error.reason}), so nothing more was done: run the command again")
