"""Routes of a tenant's Twilio accounts, their credentials and their dialling limits (call rate, number of concurrent calls)."""

import re
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Path, Request, Response

from app.admin.access import (
    BODY_ERRORS,
    CHANGE_ERRORS,
    EXAMPLE_TENANT_ID,
    SLOT_LIMITED_READ_ERRORS,
    ActorDep,
    TenantAdministrationDep,
    TenantIdDep,
    TransactionsDep,
    admin_router,
    mark_response_as_replayed,
    openapi_creation_responses,
    parse_body,
    require_operator,
)
from app.admin.accounts import examples
from app.admin.accounts.schemas import AccountChange, AccountPage, AccountRecord, CredentialRecord, NewAccount, NewCredential
from app.admin.pages import PageDep
from app.errors import AlreadyExists, OperatorKeyRequired, ResourceNotFound, TenantNotFound
from app.http.authentication import ClientDep
from app.http.bodies import NO_BODY_ERRORS, JsonBody, refuse_body
from app.http.limits import NO_NUL_PATTERN
from app.http.openapi import json_example_references, json_request_body
from app.http.operations import ADMIN_PREFIX
from app.http.problems import error_responses
from app.http.routes import needs
from app.scheduling.administration import PaceAdministration
from app.scheduling.pace_limits import UNLIMITED_PACE
from app.tenants.caller import Caller, OperatorCaller
from app.tenants.scopes import Scope

router = admin_router()

_EXAMPLE_PATH = f"{ADMIN_PREFIX}/tenants/{EXAMPLE_TENANT_ID}/accounts"
_EXAMPLE_ACCOUNT_PATH = f"{_EXAMPLE_PATH}/{examples.ACCOUNT_SID}"
_EXAMPLE_CREDENTIALS_PATH = f"{_EXAMPLE_ACCOUNT_PATH}/credentials"
# The hosts of Twilio's API, also with an edge and a region: api.twilio.com, api.ie1.twilio.com, api.dublin.ie1.twilio.com.
_TWILIO_API_URL_PATTERN = re.compile(r"https://api(\.[a-z0-9-]+){0,2}\.twilio\.com/?", re.IGNORECASE | re.ASCII)

AccountSidPath = Annotated[
    str, Path(description="The account's SID.", examples=[examples.ACCOUNT_SID], max_length=34, pattern=NO_NUL_PATTERN)
]


def require_allowed_base_url(client: Caller | OperatorCaller, new: NewAccount) -> None:
    """Raises OperatorKeyRequired if a tenant's own key sets a base URL whose host is not a host of Twilio's API.

    Callgate sends the account's secrets to the host. Any other host, such as Twilio's web site, may answer so that it stays
    unknown whether a call was created. Callgate then searches Twilio's call list. If other tenants with the same AccountSid
    have calls whose creation is unknown, too, the search cannot tell their calls from this tenant's.
    """
    if new.base_url is not None and not _TWILIO_API_URL_PATTERN.fullmatch(new.base_url):
        require_operator(client, "use another base_url than https:// and a host of Twilio's API, such as api.ie1.twilio.com")


async def pace_administration(request: Request, actor: ActorDep, transactions: TransactionsDep) -> PaceAdministration:
    return PaceAdministration(transactions, request.state.keyring, actor)


PaceAdministrationDep = Annotated[PaceAdministration, Depends(pace_administration)]


@router.get(
    "/tenants/{tenant_id}/accounts",
    operation_id="list_accounts",
    summary="List a tenant's Twilio accounts",
    responses={
        200: {"content": json_example_references("accounts")},
        **error_responses(TenantNotFound, *SLOT_LIMITED_READ_ERRORS, instance=_EXAMPLE_PATH),
    },
)
@needs(Scope.ADMIN, clients="any", operator_scope=Scope.READ)
async def list_accounts(tenant_id: TenantIdDep, administration: PaceAdministrationDep, page: PageDep) -> AccountPage:
    """Lists the accounts, oldest first, each with its active credentials.

    A call uses the first account with an active credential, unless it names another account.
    """
    listed = await administration.list_accounts(tenant_id, after=page.after_id, limit=page.limit_with_lookahead)
    shown, next_cursor = page.page_and_next_cursor(listed, lambda item: item[0].id)
    paces = await administration.find_paces([row.id for row, _ in shown])
    records = [AccountRecord.from_row(row, active, paces.get(row.id, UNLIMITED_PACE)) for row, active in shown]
    return AccountPage(accounts=records, next_cursor=next_cursor)


@router.post(
    "/tenants/{tenant_id}/accounts",
    operation_id="create_account",
    summary="Add a Twilio account to a tenant",
    status_code=201,
    response_model=AccountRecord,
    response_description="The account was added.",
    openapi_extra=json_request_body("NewAccount", examples.ACCOUNT_CREATIONS),
    responses={
        **openapi_creation_responses(
            AccountRecord,
            "new_account",
            unchanged_description="The tenant has the account with this credential. Nothing was changed.",
            repeated_example="account",
        ),
        **error_responses(
            OperatorKeyRequired, TenantNotFound, AlreadyExists, *BODY_ERRORS, method="POST", instance=_EXAMPLE_PATH
        ),
    },
)
@needs(Scope.ADMIN, clients="any")
async def create_account(
    client: ClientDep, tenant_id: TenantIdDep, administration: PaceAdministrationDep, body: JsonBody, response: Response
) -> AccountRecord:
    """Adds an account with its first credential. The secret is stored encrypted and never shown. Twilio is not contacted.

    If the same request is sent again, the answer is 200 with the account as it is. If the tenant has the account with another
    secret or another base_url, the answer is 409 `already-exists`. To add another secret, add a credential to the account.
    """
    new = parse_body(NewAccount, body)
    require_allowed_base_url(client, new)
    account, credentials, created = await administration.create_account(
        tenant_id, account_sid=new.account_sid, secret=new.plain_secret, key_sid=new.key_sid or None, base_url=new.base_url
    )
    if created:
        return AccountRecord.from_row(account, credentials)
    mark_response_as_replayed(response)
    paces = await administration.find_paces([account.id])
    return AccountRecord.from_row(account, credentials, paces.get(account.id, UNLIMITED_PACE))


@router.patch(
    "/tenants/{tenant_id}/accounts/{account_sid}",
    operation_id="update_account",
    summary="Change the pace of a Twilio account",
    response_model=AccountRecord,
    openapi_extra=json_request_body("AccountChange", examples.ACCOUNT_CHANGES),
    responses={
        200: {"content": json_example_references("account")},
        **error_responses(TenantNotFound, ResourceNotFound, *BODY_ERRORS, method="PATCH", instance=_EXAMPLE_ACCOUNT_PATH),
    },
)
@needs(Scope.ADMIN, clients="operator")
async def update_account(
    tenant_id: TenantIdDep, account_sid: AccountSidPath, administration: PaceAdministrationDep, body: JsonBody
) -> AccountRecord:
    """Changes the account's `pace`: how fast its calls are dialled, and how many may be under way.

    Members of `pace` that are missing stay as they are, and null removes a limit. `"pace": null` removes all limits.
    """
    change = parse_body(AccountChange, body).pace_change
    return AccountRecord.from_row(*await administration.set_pace(tenant_id, account_sid=account_sid, change=change))


@router.post(
    "/tenants/{tenant_id}/accounts/{account_sid}/credentials",
    operation_id="create_credential",
    summary="Add a credential to a Twilio account",
    status_code=201,
    response_model=CredentialRecord,
    response_description="The credential was added.",
    openapi_extra=json_request_body("NewCredential", examples.CREDENTIAL_CREATIONS),
    responses={
        **openapi_creation_responses(
            CredentialRecord, "credential", unchanged_description="The account has this credential. Nothing was changed."
        ),
        **error_responses(TenantNotFound, ResourceNotFound, *BODY_ERRORS, method="POST", instance=_EXAMPLE_CREDENTIALS_PATH),
    },
)
@needs(Scope.ADMIN, clients="any")
async def create_credential(
    tenant_id: TenantIdDep,
    account_sid: AccountSidPath,
    administration: TenantAdministrationDep,
    body: JsonBody,
    response: Response,
) -> CredentialRecord:
    """Adds a credential, which is tried after the account's other ones. Its secret is never shown.

    If the same request is sent again, the answer is 200 with the credential. If the credential has been revoked, a new one is
    added. [Rotation](/docs/rotation) describes how to replace a credential without a failed call.
    """
    new = parse_body(NewCredential, body)
    credential, created = await administration.create_credential(
        tenant_id, account_sid=account_sid, secret=new.plain_secret, key_sid=new.key_sid or None
    )
    if not created:
        mark_response_as_replayed(response)
    return CredentialRecord.from_row(credential)


@router.delete(
    "/tenants/{tenant_id}/accounts/{account_sid}/credentials/{credential_id}",
    operation_id="revoke_credential",
    summary="Revoke a credential",
    dependencies=[Depends(refuse_body)],
    status_code=204,
    response_description="The credential is revoked.",
    responses=error_responses(
        TenantNotFound,
        ResourceNotFound,
        *NO_BODY_ERRORS,
        *CHANGE_ERRORS,
        method="DELETE",
        instance=f"{_EXAMPLE_CREDENTIALS_PATH}/{examples.CREDENTIAL_ID}",
    ),
)
@needs(Scope.ADMIN, clients="any")
async def revoke_credential(
    tenant_id: TenantIdDep,
    account_sid: AccountSidPath,
    credential_id: Annotated[UUID, Path(description="The credential's id.", examples=[examples.CREDENTIAL_ID])],
    administration: TenantAdministrationDep,
) -> None:
    """Revokes the credential: it is never used again and no longer listed. Callbacks that are signed with it are refused.

    If the same request is sent again, the answer is the same.
    """
    await administration.revoke_credential(tenant_id, credential_id, account_sid=account_sid)
