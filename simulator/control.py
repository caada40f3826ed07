"""Control routes for tests and `callgate dev`. They have no authentication, so they are for development only."""

from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field, SecretStr

from simulator.accounts import ACCOUNT_SID_PATTERN, Account
from simulator.calls import StateDep
from simulator.ledger import LedgerEntry
from simulator.limits import AccountLimits

PathAccountSid = Annotated[str, Path(pattern=f"^{ACCOUNT_SID_PATTERN.pattern}$")]

router = APIRouter(prefix="/_simulator", tags=["control"])


class Health(BaseModel):
    status: str = "ok"
    calls: int = Field(description="Calls in memory.")
    held_connections: int = Field(description="Connections that the fault accept-then-hang keeps open.")


class Credentials(BaseModel):
    auth_token: SecretStr | None = None
    secondary_auth_token: SecretStr | None = Field(
        None, description="Accepted like `auth_token`; signs callbacks only after its promotion."
    )
    api_keys: dict[str, SecretStr] = Field(default_factory=dict, description="Secret by API key sid (SK…).")


class RegisteredAccount(BaseModel):
    sid: str
    has_auth_token: bool
    has_secondary_auth_token: bool
    api_keys: list[str]


class LedgerPage(BaseModel):
    received: int = Field(description="All creations received since the start or the last reset, whatever the filters.")
    accepted: int = Field(description="All calls created since the start or the last reset, whatever the filters.")
    forgotten: int = Field(description="Entries that were dropped. If it is not 0, `entries` is incomplete.")
    entries: list[LedgerEntry]


@router.get("/health", summary="Check the simulator's health")
async def read_health(state: StateDep) -> Health:
    return Health(calls=len(state.calls), held_connections=len(state.held_connections))


@router.get("/ledger", summary="List the creations that were received")
async def read_ledger(
    state: StateDep,
    account_sid: str | None = None,
    to: str | None = None,
    after: Annotated[int, Query(ge=0, description="Only entries with a higher sequence number.")] = 0,
) -> LedgerPage:
    """Lists the requests to create a call in the order of receipt, whether or not they created a call."""
    entries = [
        entry
        for entry in state.ledger.entries()
        if entry.sequence > after
        and (account_sid is None or entry.account_sid == account_sid)
        and (to is None or entry.to == to)
    ]
    return LedgerPage(
        received=state.ledger.received,
        accepted=state.ledger.accepted,
        forgotten=state.ledger.dropped_count,
        entries=entries,
    )


@router.get("/requests", summary="Count the requests to Twilio's own paths")
async def read_request_counts(state: StateDep, account_sid: str | None = None) -> dict[str, int]:
    """Returns how often each method was used on each resource (such as `GET Call`) since the start or the last reset."""
    return state.requests.request_counts_of(account_sid)


@router.put("/accounts/{sid}", summary="Register an account, or replace its credentials")
async def register_account(sid: PathAccountSid, credentials: Credentials, state: StateDep) -> RegisteredAccount:
    """Registers an account. Without any credential it is open: it accepts any password."""
    account = Account(
        sid,
        credentials.auth_token.get_secret_value() if credentials.auth_token else None,
        {key: secret.get_secret_value() for key, secret in credentials.api_keys.items()},
        secondary_auth_token=(
            credentials.secondary_auth_token.get_secret_value() if credentials.secondary_auth_token else None
        ),
    )
    state.accounts.register(account)
    return _to_registered_account(account)


@router.post("/accounts/{sid}/promote", summary="Promote the secondary auth token of an account")
async def promote_auth_token(sid: PathAccountSid, state: StateDep) -> RegisteredAccount:
    """Replaces the auth token by the secondary one: the old one is refused and signs no callback from now on."""
    return _to_registered_account(state.accounts.promote_secondary_auth_token(sid))


@router.get("/accounts/{sid}/limits", summary="Get the limits of an account")
async def read_limits(sid: PathAccountSid, state: StateDep) -> AccountLimits:
    return state.limited_accounts.limits_of(sid)


@router.put("/accounts/{sid}/limits", summary="Set the limits of an account")
async def set_limits(sid: PathAccountSid, limits: AccountLimits, state: StateDep) -> AccountLimits:
    """Sets the limits of an account. Omitted members get their defaults.

    Existing calls stay and count toward the limits. Calls that wait in the queue are dialled at the new rate.
    """
    state.set_account_limits(sid, limits, state.now())
    return limits


def _to_registered_account(account: Account) -> RegisteredAccount:
    return RegisteredAccount(
        sid=account.sid,
        has_auth_token=account.auth_token is not None,
        has_secondary_auth_token=account.secondary_auth_token is not None,
        api_keys=sorted(account.api_keys),
    )


@router.post("/reset", status_code=204, summary="Remove calls, ledger, callbacks and faults")
async def reset(state: StateDep) -> None:
    """Removes calls, ledger, callbacks and faults, and restores the configured limits. Registered accounts stay."""
    state.reset()
