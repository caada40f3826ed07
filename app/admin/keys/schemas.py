"""Request and response bodies of API keys. Only the response to the creation contains the key itself."""

from datetime import UTC, datetime
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictStr
from pydantic_core import PydanticCustomError

from app.http.limits import NO_NUL_PATTERN
from app.http.times import Timestamp
from app.tenants.administration_store import ApiKeyRow, ApiKeyState
from app.tenants.api_keys import ApiKeyFormat
from app.tenants.names import MAX_DISPLAY_NAME_LENGTH
from app.tenants.scopes import Scope, known_scopes, sort_scopes

_Scopes = Annotated[list[Scope], Field(min_length=1, max_length=len(Scope))]
_SCOPES_DESCRIPTION = (
    "What the key may do. A key cannot give a scope that it lacks: 403 `scope-required` names the missing scope."
)


def _require_future_time(moment: datetime) -> datetime:
    if moment <= datetime.now(UTC):
        raise PydanticCustomError("not_in_future", "must be in the future")
    return moment


class NewKey(BaseModel):
    """An API key to create."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    name: Annotated[StrictStr, Field(min_length=1, max_length=MAX_DISPLAY_NAME_LENGTH, pattern=NO_NUL_PATTERN)] | None = Field(
        None, description="A name, such as the service that uses the key."
    )
    scopes: _Scopes | None = Field(None, description=f"{_SCOPES_DESCRIPTION} Without it: `call` and `read`.")
    expires_at: Annotated[Timestamp, AfterValidator(_require_future_time)] | None = Field(
        None, description="When the key expires. RFC 3339 with a time zone. Without it the key does not expire."
    )
    format: ApiKeyFormat = Field(
        "callgate",
        description="`twilio`: 32 lower-case hexadecimal digits, for clients that check Twilio's tokens.",
    )


class KeyRecord(BaseModel):
    """The stored data of an API key. The key itself is not stored."""

    id: str = Field(description="The public part of the key, `cgk_` and 12 hexadecimal digits.")
    name: str | None
    scopes: list[Scope]
    state: ApiKeyState
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(
        description="When a request was last authenticated with the key; exact to about a minute."
    )

    @classmethod
    def from_row(cls, row: ApiKeyRow) -> Self:
        return cls(**_key_record_members(row))


class CreatedKey(KeyRecord):
    """The answer to the creation of an API key: its record, and the key itself, which is shown only once."""

    key: str | None = Field(
        description="The key, to be sent as `Authorization: Bearer …`. This answer alone has it, because only a keyed hash is "
        "stored. Null if an earlier request with this Idempotency-Key created the key."
    )

    @classmethod
    def from_row_and_key(cls, row: ApiKeyRow, key: str | None) -> Self:
        """Returns the response body of a creation, from the stored `row` and the key itself.

        `key` is None if an earlier request with the same Idempotency-Key created the key.
        """
        return cls(**_key_record_members(row), key=key)


class KeyPage(BaseModel):
    keys: list[KeyRecord]
    next_cursor: str | None = Field(description="The `cursor` of the next page, or null on the last one.")


def _key_record_members(row: ApiKeyRow) -> dict[str, object]:
    """Returns the members of a KeyRecord, by name, from a database row."""
    return {
        "id": row.prefix,
        "name": row.name,
        "scopes": sort_scopes(known_scopes(row.scopes)),
        "state": row.state_at(datetime.now(UTC)),
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "revoked_at": row.revoked_at,
        "last_used_at": row.last_used_at,
    }
