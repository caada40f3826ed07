"""Compares a declaration with the stored tenants, and plans the changes that remove the differences. Does no I/O.

Members that the file leaves out are not compared. If a setting has its default value in the file and is not set in the
database, the two count as equal. Secrets are compared in constant time, and no printed text contains them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import UUID

from app.apply.changes import (
    ApiKeyRevocation,
    BaseUrlUpdate,
    ChangePlan,
    DeclaredChange,
    PaceUpdate,
    SipCredentialCreation,
    SipCredentialDeletion,
    SipCredentialReplacement,
    TenantCreation,
    TenantUpdate,
    TwilioCredentialAddition,
    TwilioCredentialRevocation,
    WorkloadDeletion,
    WorkloadUpsert,
)
from app.apply.document import DocumentInvalid, FileProblem, MemberPath
from app.apply.schemas import (
    Declaration,
    DeclaredAccount,
    DeclaredCredential,
    DeclaredRemoval,
    DeclaredSipCredential,
    DeclaredTenant,
    DeclaredWorkload,
)
from app.apply.store import StoredAccount, StoredTenant, StoredTwilioCredential
from app.apply.tenant_settings import (
    MEMBERS_BY_SETTING,
    NEW_TENANT_SETTINGS,
    comparable_value,
    declared_settings,
    stored_settings,
)
from app.scheduling.pace_limits import UNLIMITED_PACE
from app.security.keyring import Keyring
from app.tenants.administration_accounts import TWILIO_SECRET_ADVICE, TWILIO_SECRET_PATTERN
from app.tenants.administration_sip import is_same_sip_auth, sip_auth_errors
from app.tenants.administration_store import TenantSettings
from app.tenants.caller import workload_name
from app.tenants.errors import InvalidValue
from app.tenants.scopes import DEFAULT_SCOPES, known_scopes, sort_scopes
from app.tenants.sip_credential_store import EncryptedSipCredential
from app.tenants.stored_secrets import associated_data_of_credential
from app.tenants.workload_store import WorkloadRow
from app.workloads.service_accounts import ServiceAccount


def plan_tenant_changes(
    declaration: Declaration,
    secrets: Mapping[MemberPath, str],
    stored: Mapping[str, StoredTenant],
    workloads: Mapping[ServiceAccount, WorkloadRow],
    keyring: Keyring,
    workload_issuer: str | None,
) -> ChangePlan:
    """Returns the changes in the order in which they must be made. Raises DocumentInvalid, which lists all impossible changes.

    `secrets` maps the path of each reference in the file to the secret itself. `stored` maps tenant ids to the stored tenants.
    `workloads` holds the stored workloads of the service accounts in the file, also those of other tenants. `keyring` decrypts
    stored secrets. `workload_issuer` is the issuer of service accounts for which the file gives none.
    """
    planner = _ChangePlanner(secrets, workloads, keyring, workload_issuer)
    changes = [
        change
        for index, tenant in enumerate(declaration.tenants)
        for change in planner.tenant_changes(tenant, ("tenants", index), stored.get(tenant.id))
    ]
    if planner.problems:
        raise DocumentInvalid(*planner.problems)
    return ChangePlan(changes, planner.notes)


@dataclass(slots=True)
class _ChangePlanner:
    secrets: Mapping[MemberPath, str]
    workloads: Mapping[ServiceAccount, WorkloadRow]
    keyring: Keyring
    workload_issuer: str | None
    problems: list[FileProblem] = field(default_factory=list)
    notes: list[FileProblem] = field(default_factory=list)

    def tenant_changes(self, tenant: DeclaredTenant, path: MemberPath, stored: StoredTenant | None) -> Iterator[DeclaredChange]:
        if stored is None and tenant.name is None:
            self.problems.append(FileProblem("is missing: a new tenant needs a name", (*path, "name")))
        before = stored_settings(stored.row) if stored else NEW_TENANT_SETTINGS
        after = declared_settings(tenant)
        changed = [
            name for name, value in after.items() if comparable_value(name, value) != comparable_value(name, before.get(name))
        ]
        members = {
            MEMBERS_BY_SETTING[name]: (before.get(name), after.get(name)) for name in MEMBERS_BY_SETTING if name in changed
        }
        settings = cast(TenantSettings, {name: after[name] for name in changed})
        self._require_callback_url({**before, **settings}, path)
        if stored is None:
            yield TenantCreation(tenant_id=tenant.id, action="create", subject="tenant", members=members, settings=settings)
        elif changed:
            yield TenantUpdate(tenant_id=tenant.id, action="update", subject="tenant", members=members, settings=settings)
        for index, account in enumerate(tenant.accounts or ()):
            of_account = stored.accounts.get(account.account_sid) if stored else None
            yield from self._account_changes(tenant.id, account, (*path, "accounts", index), of_account)
        for index, sip_credential in enumerate(tenant.sip_credentials or ()):
            of_name = stored.sip_credentials.get(sip_credential.name) if stored else None
            yield from self._sip_credential_changes(tenant.id, sip_credential, (*path, "sip_credentials", index), of_name)
        for index, workload in enumerate(tenant.workloads or ()):
            yield from self._workload_changes(tenant.id, workload, (*path, "workloads", index))
        removals: list[DeclaredChange] = []
        for index, removal in enumerate(tenant.revoked or ()):
            planned = self._removal_changes(tenant.id, removal, (*path, "revoked", index), stored)
            removals += [change for change in planned if change not in removals]  # the file may name one thing twice
        yield from removals

    def _sip_credential_changes(
        self, tenant_id: str, declared: DeclaredSipCredential, path: MemberPath, stored: EncryptedSipCredential | None
    ) -> Iterator[DeclaredChange]:
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
        elif not is_same_sip_auth(self.keyring, stored, username, password):
            yield SipCredentialReplacement(
                tenant_id=tenant_id, action="update", subject=subject, name=declared.name, username=username, password=password
            )

    def _workload_changes(self, tenant_id: str, declared: DeclaredWorkload, path: MemberPath) -> Iterator[DeclaredChange]:
        account = declared.as_service_account(self.workload_issuer)
        stored = self.workloads.get(account)
        before = None if stored is None else sort_scopes(known_scopes(stored.scopes))
        after = sort_scopes(declared.scopes) if declared.scopes else before or sort_scopes(DEFAULT_SCOPES)
        if stored is not None and stored.tenant_id != tenant_id:
            text = "this service account acts for another tenant or for operators: delete that workload first"
            self.problems.append(FileProblem(text, path))
        elif before != after:
            yield WorkloadUpsert(
                tenant_id=tenant_id,
                action="update" if stored else "create",
                subject=f"workload {workload_name(account.namespace, account.name)}",
                members={"scopes": (before, after)},
                account=account,
                scopes=after,
                replaced_workload_id=stored.id if stored else None,
            )

    def _removal_changes(
        self, tenant_id: str, removal: DeclaredRemoval, path: MemberPath, stored: StoredTenant | None
    ) -> Iterator[DeclaredChange]:
        if (name := removal.sip_credential) is not None:
            if stored is None or name not in stored.sip_credentials:
                text = "the tenant has no such SIP credential: nothing to delete"
                self.notes.append(FileProblem(text, (*path, "sip_credential")))
            else:
                subject = f"SIP credential {name}"
                yield SipCredentialDeletion(tenant_id=tenant_id, action="delete", subject=subject, name=name)
        if removal.workload is not None:
            workload = self.workloads.get(removal.workload.as_service_account(self.workload_issuer))
            if workload is None or workload.tenant_id != tenant_id:
                self.notes.append(FileProblem("the tenant has no such workload: nothing to delete", (*path, "workload")))
            else:
                subject = f"workload {workload_name(workload.namespace, workload.service_account)}"
                yield WorkloadDeletion(tenant_id=tenant_id, action="delete", subject=subject, workload_id=workload.id)
        if removal.key is not None:
            is_revoked = stored.is_revoked_by_key_id.get(removal.key) if stored else None
            if is_revoked is None:
                self.notes.append(FileProblem("the tenant has no such key: nothing to revoke", (*path, "key")))
            elif not is_revoked:
                subject = f"API key {removal.key}"
                yield ApiKeyRevocation(tenant_id=tenant_id, action="revoke", subject=subject, key_id=removal.key)

    def _require_callback_url(self, settings: Mapping[str, Any], path: MemberPath) -> None:
        """Adds an error to `problems` if a default method or events for status callbacks are set, but no default URL."""
        if not settings["status_callback"] and (settings["status_callback_method"] or settings["status_callback_events"]):
            self.problems.append(FileProblem("a default method and default events need a default `url`", (*path, "callbacks")))

    def _account_changes(
        self, tenant_id: str, account: DeclaredAccount, path: MemberPath, stored: StoredAccount | None
    ) -> Iterator[DeclaredChange]:
        credentials = list(account.credentials_with_paths(path))
        subject, base_url = f"account {account.account_sid}", account.base_url
        if stored is None and not credentials:
            self.problems.append(FileProblem("a new account needs a credential: auth_token, or key_sid and secret", path))
        if stored is not None and base_url is not None and base_url != stored.row.base_url:
            yield BaseUrlUpdate(
                tenant_id=tenant_id,
                action="update",
                subject=subject,
                members={"base_url": (stored.row.base_url, base_url)},
                account_sid=account.account_sid,
                base_url=base_url,
            )
        to_revoke = self._credentials_to_revoke(account, path, stored)
        added: list[tuple[str, str]] = []
        for place, credential in credentials:
            secret_path, _ = credential.secret_reference_with_path(place)
            username, secret = credential.key_sid or account.account_sid, self.secrets[secret_path]
            if (username, secret) in added or self._is_credential_stored(username, secret, secret_path, stored, to_revoke):
                continue
            if not TWILIO_SECRET_PATTERN.fullmatch(secret):
                self.problems.append(FileProblem(f"must be {TWILIO_SECRET_ADVICE}", secret_path))
            yield TwilioCredentialAddition(
                tenant_id=tenant_id,
                action="add",
                subject=_credential_subject(credential, account),
                members={} if stored or added or base_url is None else {"base_url": (None, base_url)},
                account_sid=account.account_sid,
                base_url=base_url,
                key_sid=credential.key_sid,
                secret=secret,
            )
            added.append((username, secret))
        yield from self._pace_changes(tenant_id, account, path, stored)
        for gone in to_revoke:
            name = f"credential {gone.id} ({gone.username}) of {subject}"
            yield TwilioCredentialRevocation(tenant_id=tenant_id, action="revoke", subject=name, credential_id=gone.id)

    def _pace_changes(
        self, tenant_id: str, account: DeclaredAccount, path: MemberPath, stored: StoredAccount | None
    ) -> Iterator[DeclaredChange]:
        if not account.has_member("pace"):
            return
        before = stored.pace if stored else UNLIMITED_PACE
        change = None if account.pace is None else account.pace.pace_change
        try:
            after = UNLIMITED_PACE if change is None else before.with_changes(change)
        except InvalidValue as error:
            self.problems.append(FileProblem(str(error), (*path, *error.pointer.removeprefix("/").split("/"))))
            return
        if changed := after.names_of_differing_limits(before):
            yield PaceUpdate(
                tenant_id=tenant_id,
                action="update",
                subject=f"account {account.account_sid}",
                members={f"pace.{name}": (before.to_json()[name], after.to_json()[name]) for name in changed},
                account_sid=account.account_sid,
                pace=change,
            )

    def _credentials_to_revoke(
        self, account: DeclaredAccount, path: MemberPath, stored: StoredAccount | None
    ) -> list[StoredTwilioCredential]:
        """Returns the active credentials that the file revokes. Adds a notice to `notes` for each that the account lacks."""
        revoked: dict[UUID, StoredTwilioCredential] = {}
        for index, name in enumerate(account.revoked or ()):
            named = [one for one in stored.credentials if name.lower() in (str(one.id), one.username.lower())] if stored else []
            if not named:
                self.notes.append(
                    FileProblem("the account has no such credential: nothing to revoke", (*path, "revoked", index))
                )
            revoked |= {one.id: one for one in named if not one.is_revoked}
        return list(revoked.values())

    def _is_credential_stored(
        self,
        username: str,
        secret: str,
        path: MemberPath,
        stored: StoredAccount | None,
        to_revoke: list[StoredTwilioCredential],
    ) -> bool:
        """Returns whether the account already has this credential, active or revoked.

        `username` is the SID of the API key, or for an auth token the SID of the account. `path` is where the file refers to
        the secret. Adds an error to `problems` if the credential is revoked, or if the file itself revokes it (`to_revoke`),
        because a file cannot undo a revocation.
        """
        same = (
            [one for one in stored.credentials if one.username == username and self._has_secret(one, secret)] if stored else []
        )
        if any(not one.is_revoked and one not in to_revoke for one in same):
            return True
        if same:
            text = "this secret is revoked, and a file does not undo that: remove it, or use `callgate accounts add`"
            self.problems.append(FileProblem(text, path))
        return bool(same)

    def _has_secret(self, credential: StoredTwilioCredential, secret: str) -> bool:
        return self.keyring.is_ciphertext_of(
            credential.sealed_secret, secret, associated_data=associated_data_of_credential(credential.id)
        )


def _credential_subject(credential: DeclaredCredential, account: DeclaredAccount) -> str:
    return f"{credential.key_sid or 'auth token'} of account {account.account_sid}"
