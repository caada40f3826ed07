"""Compares a declaration with what is stored: the changes that would make it true. Pure.

A member that the file does not name is no difference, nor is a default that the file writes out. A secret is compared with the
stored one in constant time and appears in no change's text.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast
from uuid import UUID

from app.apply.changes import (
    BaseUrlChange,
    Change,
    ChangePlan,
    CredentialAddition,
    CredentialRevocation,
    KeyRevocation,
    SipCredentialCreation,
    SipCredentialDeletion,
    SipCredentialReplacement,
    TenantCreation,
    TenantUpdate,
)
from app.apply.document import DocumentInvalid, FileProblem, MemberPath
from app.apply.schemas import (
    Declaration,
    DeclaredAccount,
    DeclaredCredential,
    DeclaredRemoval,
    DeclaredSipCredential,
    DeclaredTenant,
)
from app.apply.store import AccountState, CredentialState, TenantState
from app.security.keyring import Keyring
from app.tenants.administration_sip import has_sip_auth, sip_auth_errors
from app.tenants.administration_store import TenantSettings
from app.tenants.sip_credential_store import SealedSipAuth
from app.tenants.stored_secrets import credential_identity

_DEFAULT_METHOD: Final = "POST"
_DEFAULT_EVENTS: Final = ("completed",)
_NEW_TENANT: Final = TenantSettings(
    suspended=False,
    status_callback=None,
    status_callback_method=None,
    status_callback_events=None,
    callback_format="twilio",
    max_in_flight=None,
)
_CALLBACK_SETTINGS: Final = {
    "url": "status_callback",
    "method": "status_callback_method",
    "events": "status_callback_events",
    "format": "callback_format",
}
# The member of the file for each setting, in the order to print them.
_MEMBERS: Final = {
    "name": "name",
    "suspended": "suspended",
    **{setting: f"callbacks.{name}" for name, setting in _CALLBACK_SETTINGS.items()},
    "max_in_flight": "limits.max_in_flight",
}


def make_plan(
    declaration: Declaration, secrets: Mapping[MemberPath, str], stored: Mapping[str, TenantState], keyring: Keyring
) -> ChangePlan:
    """Returns the changes in the order to make them. Raises DocumentInvalid with all problems."""
    planner = _Planner(secrets, keyring)
    changes = [
        change
        for index, tenant in enumerate(declaration.tenants)
        for change in planner.of_tenant(tenant, ("tenants", index), stored.get(tenant.id))
    ]
    if planner.problems:
        raise DocumentInvalid(*planner.problems)
    return ChangePlan(changes, planner.notes)


@dataclass(slots=True)
class _Planner:
    secrets: Mapping[MemberPath, str]
    keyring: Keyring
    problems: list[FileProblem] = field(default_factory=list)
    notes: list[FileProblem] = field(default_factory=list)

    def of_tenant(self, tenant: DeclaredTenant, path: MemberPath, stored: TenantState | None) -> Iterator[Change]:
        if stored is None and tenant.name is None:
            self.problems.append(FileProblem("is missing: a new tenant needs a name", (*path, "name")))
        before = stored.row.settings if stored else _NEW_TENANT
        after = _declared_settings(tenant)
        changed = [name for name, value in after.items() if _meaning(name, value) != _meaning(name, before.get(name))]
        members = {_MEMBERS[name]: (before.get(name), after.get(name)) for name in _MEMBERS if name in changed}
        settings = cast(TenantSettings, {name: after[name] for name in changed})
        self._check_callbacks({**before, **settings}, path)
        if stored is None:
            yield TenantCreation(tenant_id=tenant.id, action="create", subject="tenant", members=members, settings=settings)
        elif changed:
            yield TenantUpdate(tenant_id=tenant.id, action="update", subject="tenant", members=members, settings=settings)
        for index, account in enumerate(tenant.accounts or ()):
            of_account = stored.accounts.get(account.account_sid) if stored else None
            yield from self._of_account(tenant.id, account, (*path, "accounts", index), of_account)
        for index, sip_credential in enumerate(tenant.sip_credentials or ()):
            of_name = stored.sip_credentials.get(sip_credential.name) if stored else None
            yield from self._of_sip_credential(tenant.id, sip_credential, (*path, "sip_credentials", index), of_name)
        for index, removal in enumerate(tenant.revoked or ()):
            yield from self._of_removal(tenant.id, removal, (*path, "revoked", index), stored)

    def _of_sip_credential(
        self, tenant_id: str, declared: DeclaredSipCredential, path: MemberPath, stored: SealedSipAuth | None
    ) -> Iterator[Change]:
        given = declared.username
        username = given if isinstance(given, str) else self.secrets[(*path, "username")]
        password = self.secrets[(*path, "password")]
        for pointer, code, detail in sip_auth_errors(username, password):
            self.problems.append(FileProblem(f"{code}: {detail}", (*path, pointer.removeprefix("/"))))
        subject = f"SIP credential {declared.name}"
        if stored is None:
            yield SipCredentialCreation(
                tenant_id=tenant_id, action="create", subject=subject, name=declared.name, username=username, password=password
            )
        elif not has_sip_auth(self.keyring, stored, username, password):
            yield SipCredentialReplacement(
                tenant_id=tenant_id, action="update", subject=subject, name=declared.name, username=username, password=password
            )

    def _of_removal(
        self, tenant_id: str, removal: DeclaredRemoval, path: MemberPath, stored: TenantState | None
    ) -> Iterator[Change]:
        if removal.sip_credential is not None and stored is not None and removal.sip_credential in stored.sip_credentials:
            subject = f"SIP credential {removal.sip_credential}"
            yield SipCredentialDeletion(tenant_id=tenant_id, action="delete", subject=subject, name=removal.sip_credential)
        if removal.key is not None:
            is_revoked = stored.keys.get(removal.key) if stored else None
            if is_revoked is None:
                self.notes.append(FileProblem("the tenant has no such key: nothing to revoke", (*path, "key")))
            elif not is_revoked:
                subject = f"API key {removal.key}"
                yield KeyRevocation(tenant_id=tenant_id, action="revoke", subject=subject, key_id=removal.key)

    def _check_callbacks(self, settings: Mapping[str, Any], path: MemberPath) -> None:
        if not settings["status_callback"] and (settings["status_callback_method"] or settings["status_callback_events"]):
            self.problems.append(FileProblem("a default method and default events need a default `url`", (*path, "callbacks")))

    def _of_account(
        self, tenant_id: str, account: DeclaredAccount, path: MemberPath, stored: AccountState | None
    ) -> Iterator[Change]:
        credentials = list(account.credentials_at(path))
        subject, base_url = f"account {account.account_sid}", account.base_url
        if stored is None and not credentials:
            self.problems.append(FileProblem("a new account needs a credential: auth_token, or key_sid and secret", path))
        if stored is not None and base_url is not None and base_url != stored.row.base_url:
            yield BaseUrlChange(
                tenant_id=tenant_id,
                action="update",
                subject=subject,
                members={"base_url": (stored.row.base_url, base_url)},
                account_sid=account.account_sid,
                base_url=base_url,
            )
        revoked = self._revoked(account, path, stored)
        added: list[tuple[str, str]] = []
        for place, credential in credentials:
            secret_path, _ = credential.reference_at(place)
            username, secret = credential.key_sid or account.account_sid, self.secrets[secret_path]
            if (username, secret) in added or self._is_stored(username, secret, secret_path, stored, revoked):
                continue
            yield CredentialAddition(
                tenant_id=tenant_id,
                action="add",
                subject=_credential_name(credential, account),
                members={} if stored or added or base_url is None else {"base_url": (None, base_url)},
                account_sid=account.account_sid,
                base_url=base_url,
                key_sid=credential.key_sid,
                secret=secret,
            )
            added.append((username, secret))
        for gone in revoked:
            name = f"credential {gone.id} ({gone.username}) of {subject}"
            yield CredentialRevocation(tenant_id=tenant_id, action="revoke", subject=name, credential_id=gone.id)

    def _revoked(self, account: DeclaredAccount, path: MemberPath, stored: AccountState | None) -> list[CredentialState]:
        """Returns the active credentials that the file revokes."""
        revoked: dict[UUID, CredentialState] = {}
        for index, name in enumerate(account.revoked or ()):
            named = [one for one in stored.credentials if name.lower() in (str(one.id), one.username.lower())] if stored else []
            if not named:
                self.notes.append(
                    FileProblem("the account has no such credential: nothing to revoke", (*path, "revoked", index))
                )
            revoked |= {one.id: one for one in named if not one.is_revoked}
        return list(revoked.values())

    def _is_stored(
        self,
        username: str,
        secret: str,
        path: MemberPath,
        stored: AccountState | None,
        revoked: list[CredentialState],
    ) -> bool:
        """Returns whether the account has the credential. One that was revoked is a problem: a file does not undo that."""
        same = [one for one in stored.credentials if one.username == username and self._has(one, secret)] if stored else []
        if any(not one.is_revoked and one not in revoked for one in same):
            return True
        if same:
            text = "this secret is revoked, and a file does not undo that: remove it, or use `callgate accounts add`"
            self.problems.append(FileProblem(text, path))
        return bool(same)

    def _has(self, credential: CredentialState, secret: str) -> bool:
        return self.keyring.has_sealed(credential.sealed_secret, secret, identity=credential_identity(credential.id))


def _credential_name(credential: DeclaredCredential, account: DeclaredAccount) -> str:
    return f"{credential.key_sid or 'auth token'} of account {account.account_sid}"


def _declared_settings(tenant: DeclaredTenant) -> dict[str, Any]:
    """Returns the settings that the file names."""
    settings: dict[str, Any] = {name: getattr(tenant, name) for name in ("name", "suspended") if tenant.gives(name)}
    callbacks = tenant.callbacks
    if callbacks is not None:
        if callbacks.gives("url") and callbacks.url is None:
            settings |= {"status_callback_method": None, "status_callback_events": None}
        given = {name: getattr(callbacks, name) for name in callbacks.model_fields_set}
        settings |= {setting: given[name] for name, setting in _CALLBACK_SETTINGS.items() if name in given}
    if tenant.limits is not None and tenant.limits.gives("max_in_flight"):
        settings["max_in_flight"] = tenant.limits.max_in_flight
    return settings


def _meaning(setting: str, value: Any) -> Any:
    """Returns what a setting means: an unset one is the default, and events have no order."""
    if setting == "status_callback_method":
        return value or _DEFAULT_METHOD
    if setting == "status_callback_events":
        return set(value or _DEFAULT_EVENTS)
    return value
