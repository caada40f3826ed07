"""Request and response bodies of Twilio accounts and their credentials. Secrets are in requests only."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from app.scheduling.pace_limits import UNLIMITED_PACE, PaceChange, PaceLimits
from app.scheduling.pace_schemas import PaceRecord, PaceSettings
from app.tenants.administration_accounts import KEY_SID_PATTERN, TWILIO_SECRET_ADVICE, TWILIO_SECRET_PATTERN
from app.tenants.administration_store import AccountRow, CredentialRow
from app.twilio.schemas import ACCOUNT_SID_PATTERN

_AccountSid = Annotated[str, Field(pattern=f"^{ACCOUNT_SID_PATTERN.pattern}$", description="The account's SID.")]
_KeySid = Annotated[str, Field(pattern=f"^{KEY_SID_PATTERN.pattern}$", description="The SID of an API key of the account.")]
_SECRET_JSON_SCHEMA: JsonDict = {"minLength": 1, "maxLength": 256, "pattern": "^[!-~]+$"}
_NO_SECRET = SecretStr("")


def _require_secret_characters(value: SecretStr) -> SecretStr:
    """Returns the secret. Raises a validation error if it does not match TWILIO_SECRET_PATTERN."""
    if not TWILIO_SECRET_PATTERN.fullmatch(value.get_secret_value()):
        raise PydanticCustomError("invalid_secret", f"must be {TWILIO_SECRET_ADVICE}")
    return value


_Secret = Annotated[SecretStr, AfterValidator(_require_secret_characters), Field(json_schema_extra=_SECRET_JSON_SCHEMA)]


class NewCredential(BaseModel):
    """A credential to add: either `auth_token`, or `key_sid` and `secret` of an API key."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    auth_token: _Secret = Field(_NO_SECRET, description="The account's auth token.")
    key_sid: _KeySid = ""
    secret: _Secret = Field(_NO_SECRET, description="The secret of the API key.")

    @model_validator(mode="after")
    def _require_token_or_api_key(self) -> Self:
        given = self.model_fields_set & {"auth_token", "key_sid", "secret"}
        if given not in ({"auth_token"}, {"key_sid", "secret"}):
            raise PydanticCustomError("credential_form", "must have either auth_token, or key_sid and secret")
        return self

    @property
    def plain_secret(self) -> str:
        return (self.secret if self.key_sid else self.auth_token).get_secret_value()


class NewAccount(NewCredential):
    """A Twilio account with its first credential: either `auth_token`, or `key_sid` and `secret` of an API key."""

    account_sid: _AccountSid
    base_url: str | None = Field(
        None,
        max_length=2048,
        description="The base URL of this account's API, such as `https://api.dublin.ie1.twilio.com`. Null: the one of all "
        "accounts, `CALLGATE_TWILIO_BASE_URL`. Another URL than `https://` and a host of Twilio's API (`api.twilio.com`, "
        "or with an edge and a region) needs an operator's key.",
    )


class AccountChange(BaseModel):
    """Changes to a Twilio account. Members that are missing stay as they are."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    pace: PaceSettings | None = Field(None, description="Null: not limited.")

    @property
    def pace_change(self) -> PaceChange | None:
        """The changes to the dialling limits: None, which removes all limits, if `pace` is null; empty if it is missing."""
        if self.pace is not None:
            return self.pace.pace_change
        return None if "pace" in self.model_fields_set else PaceChange()


class CredentialRecord(BaseModel):
    """A Twilio credential of an account, without its secret."""

    id: UUID
    kind: Literal["auth_token", "api_key"]
    key_sid: str | None = Field(description="The SID of the API key; null for an auth token.")
    created_at: datetime
    last_used_at: datetime | None = Field(
        description="When a request was last sent with it or, for an auth token, a callback was last verified with it; exact "
        "to about a minute."
    )
    rejected_at: datetime | None = Field(description="Since when Twilio refuses it. It is then tried last.")
    rejected_reason: str | None

    @classmethod
    def from_row(cls, row: CredentialRow) -> Self:
        return cls(
            id=row.id,
            kind="api_key" if row.kind == "api_key" else "auth_token",
            key_sid=row.username if row.kind == "api_key" else None,
            created_at=row.created_at,
            last_used_at=row.last_used_at,
            rejected_at=row.rejected_at,
            rejected_reason=row.rejected_reason,
        )


class AccountRecord(BaseModel):
    """A Twilio account with its active credentials, in the order in which they are tried."""

    account_sid: _AccountSid
    base_url: str | None
    pace: PaceRecord | None = Field(description="How fast its calls are dialled. Null: not limited.")
    credentials: list[CredentialRecord]
    created_at: datetime

    @classmethod
    def from_row(cls, row: AccountRow, credentials: Sequence[CredentialRow], pace: PaceLimits = UNLIMITED_PACE) -> Self:
        return cls(
            account_sid=row.account_sid,
            base_url=row.base_url,
            pace=PaceRecord.from_limits(pace) if pace.is_limited else None,
            credentials=[CredentialRecord.from_row(credential) for credential in credentials],
            created_at=row.created_at,
        )


class AccountPage(BaseModel):
    accounts: list[AccountRecord]
    next_cursor: str | None = Field(description="The `cursor` of the next page, or null on the last one.")
