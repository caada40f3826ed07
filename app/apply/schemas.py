"""The models of a file that declares tenants. Their docstrings and descriptions are the texts of the JSON Schema.

A member that is left out is not changed. `null` removes a value, and is refused for members that cannot be removed.
"""

from collections.abc import Iterator
from itertools import combinations
from typing import Annotated, Any, Final

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from app.apply.document import MemberPath
from app.apply.hours import DeclaredHours
from app.apply.members import (
    NULLABLE_MARK,
    DeclarationModel,
    MatchesPattern,
    Nullable,
    Omittable,
    OneLine,
    SecretReference,
    TextOrReference,
    ValueT,
    declaration_error,
)
from app.apply.pace import DeclaredPace
from app.setting_values import MAX_IN_FLIGHT_LIMIT, parse_twilio_base_url
from app.tenants.administration import SUSPENDED_DESCRIPTION, TENANT_ID_PATTERN
from app.tenants.administration_accounts import KEY_SID_PATTERN
from app.tenants.callback_settings import CallbackFormat, CallbackMethod, DeliveryEvent
from app.tenants.names import RESOURCE_NAME_PATTERN
from app.tenants.scopes import Scope
from app.twilio.schemas import ACCOUNT_SID_PATTERN
from app.workloads.service_accounts import (
    MAX_NAMESPACE_LENGTH,
    MAX_SERVICE_ACCOUNT_LENGTH,
    NAMESPACE_PATTERN,
    SERVICE_ACCOUNT_PATTERN,
    ServiceAccount,
)

_CREDENTIAL_ID_PATTERN: Final = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_INLINE_CREDENTIAL_ADVICE: Final = "give auth_token, or key_sid and secret"


def _parse_base_url_member(value: str) -> str:
    try:
        return parse_twilio_base_url(value)
    except ValueError as error:
        raise declaration_error(str(error)) from None


def _without_repeated_values(values: list[ValueT]) -> list[ValueT]:
    return list(dict.fromkeys(values))


_TenantIdentifier = Annotated[str, MatchesPattern(TENANT_ID_PATTERN.pattern, "lower-case letters, digits and '-', at most 63")]
_AccountSid = Annotated[str, MatchesPattern(ACCOUNT_SID_PATTERN.pattern, "AC and 32 hexadecimal digits")]
_KeySid = Annotated[str, MatchesPattern(KEY_SID_PATTERN.pattern, "SK and 32 hexadecimal digits")]
_CredentialSidOrId = Annotated[
    str, MatchesPattern(f"{KEY_SID_PATTERN.pattern}|{_CREDENTIAL_ID_PATTERN}", "an API key's SID (SK…) or a credential's id")
]
_SipCredentialName = Annotated[str, MatchesPattern(RESOURCE_NAME_PATTERN, "letters, digits and '._-', at most 63")]
_ScopeName = Annotated[Scope, Field(strict=False)]


class DeclaredCallbacks(DeclarationModel):
    """Where the status callbacks of the tenant's calls are delivered, unless a call has its own `status_callback`."""

    url: Nullable[str] = Field(None, description="The default URL. null removes it, with method and events.")
    method: Nullable[CallbackMethod] = Field(None, description="The HTTP method. Unset: POST.")
    events: Nullable[Annotated[list[DeliveryEvent], AfterValidator(_without_repeated_values)]] = Field(
        None, min_length=1, description="The events to deliver. Unset: completed."
    )
    format: Omittable[CallbackFormat] = Field(None, description="twilio: Twilio's form fields. json: Callgate's own events.")


class DeclaredCredential(DeclarationModel):
    """A credential of a Twilio account: its auth token, or an API key with its secret."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["auth_token"]}, {"required": ["key_sid", "secret"]}],
            "dependentRequired": {"key_sid": ["secret"], "secret": ["key_sid"]},
        }
    )

    auth_token: Omittable[SecretReference] = None
    key_sid: Omittable[_KeySid] = None
    secret: Omittable[SecretReference] = None

    def secret_reference_with_path(self, path: MemberPath) -> tuple[MemberPath, SecretReference]:
        """Returns where the file refers to the credential's secret, and this reference. `path` is where the credential is."""
        if self.auth_token is not None:
            return (*path, "auth_token"), self.auth_token
        if self.secret is not None:
            return (*path, "secret"), self.secret
        raise ValueError("a credential has a secret")

    @model_validator(mode="after")
    def _require_token_or_api_key(self) -> "DeclaredCredential":
        if _credential_kind(self.model_fields_set) is None:
            raise declaration_error(_INLINE_CREDENTIAL_ADVICE)
        return self


class DeclaredAccount(DeclarationModel):
    """A Twilio account of the tenant. Stored credentials that the file does not name stay."""

    model_config = ConfigDict(
        json_schema_extra={
            "dependentRequired": {"key_sid": ["secret"], "secret": ["key_sid"]},
            "not": {"anyOf": [{"required": list(pair)} for pair in combinations(("auth_token", "key_sid", "credentials"), 2)]},
        }
    )

    account_sid: _AccountSid
    base_url: Omittable[Annotated[str, AfterValidator(_parse_base_url_member)]] = Field(
        None, description="The base URL of this account's API. Unset: that of the installation."
    )
    pace: Nullable[DeclaredPace] = Field(None, description="How fast its calls are dialled. null: not limited.")
    auth_token: Omittable[SecretReference] = Field(None, description="The account's auth token, if it is the only credential.")
    key_sid: Omittable[_KeySid] = Field(None, description="An API key, if it is the only credential; with `secret`.")
    secret: Omittable[SecretReference] = Field(None, description="The secret of `key_sid`.")
    credentials: Omittable[list[DeclaredCredential]] = Field(
        None, description="Several credentials. New ones are added in this order, and tried in it."
    )
    revoked: Omittable[list[_CredentialSidOrId]] = Field(
        None, description="Credentials that must not be used any more: SIDs of API keys (SK…), or ids from `accounts list`."
    )

    def credentials_with_paths(self, path: MemberPath) -> Iterator[tuple[MemberPath, DeclaredCredential]]:
        """Yields pairs of a path in the file and the credential at this path. `path` is the path of the account."""
        if self.auth_token or self.key_sid:
            yield path, DeclaredCredential.model_construct(auth_token=self.auth_token, key_sid=self.key_sid, secret=self.secret)
        for index, credential in enumerate(self.credentials or ()):
            yield (*path, "credentials", index), credential

    @model_validator(mode="after")
    def _require_one_credential_form(self) -> "DeclaredAccount":
        inline = {"auth_token", "key_sid", "secret"} & self.model_fields_set
        if inline and self.has_member("credentials"):
            raise declaration_error("has a credential and `credentials`: give all of them under `credentials`")
        if inline and _credential_kind(self.model_fields_set) is None:
            raise declaration_error(_INLINE_CREDENTIAL_ADVICE)
        return self


class DeclaredSipCredential(DeclarationModel):
    """A user name and a password for the digest authentication of SIP endpoints. Requests for calls refer to it by name.

    Replaces what is stored under the name.
    """

    name: _SipCredentialName
    username: TextOrReference = Field(description="The user name, or the place where it is.")
    password: SecretReference


class DeclaredServiceAccount(DeclarationModel):
    """A Kubernetes service account: its namespace, its name, and the issuer of its tokens."""

    issuer: Omittable[OneLine] = Field(None, description="The issuer of its tokens (`iss`). Unset: CALLGATE_WORKLOAD_ISSUER.")
    namespace: Annotated[
        str, Field(max_length=MAX_NAMESPACE_LENGTH), MatchesPattern(NAMESPACE_PATTERN.pattern, "the name of a namespace")
    ]
    service_account: Annotated[
        str,
        Field(max_length=MAX_SERVICE_ACCOUNT_LENGTH),
        MatchesPattern(SERVICE_ACCOUNT_PATTERN.pattern, "the name of a service account"),
    ]

    def as_service_account(self, default_issuer: str | None) -> ServiceAccount:
        """Returns the service account. Its issuer is the one in the file, or else `default_issuer`, or else ""."""
        return ServiceAccount(self.issuer or default_issuer or "", self.namespace, self.service_account)


class DeclaredWorkload(DeclaredServiceAccount):
    """A Kubernetes service account that acts for the tenant."""

    scopes: Omittable[Annotated[list[_ScopeName], AfterValidator(_without_repeated_values)]] = Field(
        None, min_length=1, description="What it may do. Unset: call and read for a new one."
    )


class DeclaredRemoval(DeclarationModel):
    """What to remove from the tenant: a SIP credential, an API key or a workload. Has exactly one member."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    sip_credential: Omittable[_SipCredentialName] = Field(None, description="The name of a SIP credential, which is deleted.")
    key: Omittable[
        Annotated[str, MatchesPattern(r"cgk_[0-9a-f]{12}", "the id of an API key: cgk_ and 12 hexadecimal digits")]
    ] = Field(None, description="The id of an API key (cgk_…), which is revoked.")

    workload: Omittable[DeclaredServiceAccount] = Field(None, description="A service account that must not act any more.")

    @model_validator(mode="after")
    def _require_one_member(self) -> "DeclaredRemoval":
        if len(self.model_fields_set) != 1:
            raise declaration_error("must have one member: sip_credential, key or workload")
        return self


class DeclaredLimits(DeclarationModel):
    """The tenant's own limits for creating calls, in place of the installation's."""

    max_in_flight: Nullable[Annotated[int, Field(ge=1, le=MAX_IN_FLIGHT_LIMIT)]] = Field(
        None,
        description="Creations that one process sends to Twilio at once. null: CALLGATE_MAX_IN_FLIGHT_PER_TENANT.",
    )


class DeclaredTenant(DeclarationModel):
    """A tenant. Stored values that the file does not name stay as they are."""

    id: _TenantIdentifier = Field(description="Lower-case letters, digits and '-', at most 63.")
    name: Omittable[OneLine] = Field(None, description="The display name. Required for a new tenant.")
    suspended: Omittable[bool] = Field(None, description=SUSPENDED_DESCRIPTION)
    callbacks: Omittable[DeclaredCallbacks] = None
    limits: Omittable[DeclaredLimits] = None
    hours: Nullable[DeclaredHours] = Field(None, description="When scheduled calls may ring. null: at any time.")
    accounts: Omittable[list[DeclaredAccount]] = None
    sip_credentials: Omittable[list[DeclaredSipCredential]] = None
    workloads: Omittable[list[DeclaredWorkload]] = None
    revoked: Omittable[list[DeclaredRemoval]] = Field(None, description="What must not be used any more.")


class Declaration(DeclarationModel):
    """A file for `callgate apply`. Declares tenants. What it does not name stays; `revoked` lists what is removed."""

    schema_: Omittable[str] = Field(None, alias="$schema", description="The place of this schema, for editors.")
    tenants: list[DeclaredTenant]

    def service_accounts(self, default_issuer: str | None) -> Iterator[ServiceAccount]:
        """Yields the service accounts of all workloads in the file: of those to create, and of those to remove."""
        for tenant in self.tenants:
            for workload in tenant.workloads or ():
                yield workload.as_service_account(default_issuer)
            for removal in tenant.revoked or ():
                if removal.workload is not None:
                    yield removal.workload.as_service_account(default_issuer)

    def secret_references_with_paths(self) -> Iterator[tuple[MemberPath, SecretReference]]:
        """Yields pairs of a path in the file and the reference to a secret at this path."""
        for account_path, account in self.accounts_with_paths():
            for path, credential in account.credentials_with_paths(account_path):
                yield credential.secret_reference_with_path(path)
        for number, tenant in enumerate(self.tenants):
            for index, sip_credential in enumerate(tenant.sip_credentials or ()):
                place: MemberPath = ("tenants", number, "sip_credentials", index)
                if isinstance(sip_credential.username, SecretReference):
                    yield (*place, "username"), sip_credential.username
                yield (*place, "password"), sip_credential.password

    def accounts_with_paths(self) -> Iterator[tuple[MemberPath, DeclaredAccount]]:
        """Yields pairs of a path in the file and the account at this path, for all tenants."""
        for number, tenant in enumerate(self.tenants):
            for index, account in enumerate(tenant.accounts or ()):
                yield ("tenants", number, "accounts", index), account


class _SchemaGenerator(GenerateJsonSchema):
    """Leaves out `default` and `null`, which Pydantic adds for omittable members. `declaration_json_schema` adds `null`s."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def declaration_json_schema() -> dict[str, Any]:
    """Returns the JSON Schema of a file for `callgate apply`. With it, editors and other tools can check a file."""
    schema = Declaration.model_json_schema(schema_generator=_SchemaGenerator)
    for model in schema["$defs"].values():
        for name, member in model.get("properties", {}).items():
            if member.pop(NULLABLE_MARK, False):
                description = member.pop("description")
                model["properties"][name] = {"anyOf": [member, {"type": "null"}], "description": description}
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema}


def _credential_kind(members: set[str]) -> str | None:
    """Returns the kind of credential that has these members: `auth_token` or `api_key`.

    Returns None if the members do not make up exactly one credential, such as a `key_sid` without a `secret`.
    """
    match sorted({"auth_token", "key_sid", "secret"} & members):
        case ["auth_token"]:
            return "auth_token"
        case ["key_sid", "secret"]:
            return "api_key"
    return None
