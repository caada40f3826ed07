"""Request and response bodies of SIP credentials. User names and passwords are in requests only."""

from datetime import datetime
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from app.tenants.names import RESOURCE_NAME_PATTERN
from app.tenants.sip_credential_store import SipCredentialRow

_Name = Annotated[
    str,
    Field(
        pattern=f"^{RESOURCE_NAME_PATTERN}$",
        description="The name that is given in `sip_credential` when a call is created: letters, digits and `._-`, at most 63.",
    ),
]


class NewSipAuth(BaseModel):
    """User name and password of a SIP credential. [SIP](/docs/sip) has the rules for both."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    username: SecretStr = Field(description="The user name for the digest authentication of the SIP endpoint. Never shown.")
    password: SecretStr = Field(description="The password for `username`. Never shown.")


class NewSipCredential(NewSipAuth):
    """A SIP credential to create."""

    name: _Name


class SipCredentialRecord(BaseModel):
    """A SIP credential, without user name and password."""

    name: _Name
    created_at: datetime
    updated_at: datetime = Field(description="When user name and password were last replaced.")

    @classmethod
    def from_row(cls, row: SipCredentialRow) -> Self:
        return cls(name=row.name, created_at=row.created_at, updated_at=row.updated_at)


class SipCredentialPage(BaseModel):
    sip_credentials: list[SipCredentialRecord]
    next_cursor: str | None = Field(description="The `cursor` of the next page, or null on the last one.")
