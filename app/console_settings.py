"""The settings of the console, Callgate's web pages for people. `Settings` in app/settings.py inherits them."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, TypeAdapter, ValidationError, field_validator
from pydantic_settings import BaseSettings

from app.setting_values import is_https_or_loopback_url, parse_console_url, seconds_setting

_DAY_S = 86_400


class OidcAccessRule(BaseModel):
    """A rule of CALLGATE_CONSOLE_OIDC_ACCESS: gives `scopes` to people whose OpenID Connect claim `claim` is `value`.

    `tenant` is the tenant for which they may act. If `tenant` is None, they are operators and may act for all tenants.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    claim: str = Field(min_length=1)
    value: str = Field(min_length=1)
    scopes: tuple[Literal["call", "read", "admin"], ...] = Field(min_length=1)
    tenant: str | None = None


class ConsoleSettings(BaseSettings):
    console: bool = Field(True, description="Whether `callgate serve` serves the console, `/console`.")
    console_idle_timeout: float = seconds_setting(
        3600.0, "Seconds without a request after which a session of the console ends.", maximum=_DAY_S
    )
    console_session_timeout: float = seconds_setting(
        43_200.0, "Seconds after its login at which a session of the console ends, used or not.", maximum=30 * _DAY_S
    )
    console_url: str | None = Field(
        None,
        description="The address at which people open the console; `/console` is optional: `https://calls-ops.example.com`.",
    )
    console_oidc_issuer: str | None = Field(
        None, description="The issuer of an OpenID Connect provider with which people can log in to the console."
    )
    console_oidc_client_id: str | None = Field(None, min_length=1, description="Callgate's client id at this provider.")
    console_oidc_client_secret: SecretStr | None = Field(None, min_length=1, description="The secret of this client.")
    console_oidc_scope: str = Field(
        "openid email", min_length=6, description="The scopes that are asked of the provider, separated by spaces."
    )
    console_oidc_access: str | None = Field(
        None,
        description="Who may do what, as JSON: a list of objects with `claim`, `value`, `scopes` and, for a tenant's people, "
        "`tenant`. The first rule that matches applies; a person whom no rule matches is refused.",
    )

    @field_validator("console_url")
    @classmethod
    def _check_console_url(cls, value: str | None) -> str | None:
        return None if value is None else parse_console_url(value)

    @field_validator("console_oidc_issuer")
    @classmethod
    def _check_oidc_issuer(cls, value: str | None) -> str | None:
        if value is not None and not is_https_or_loopback_url(value):
            raise ValueError("must be an https:// URL, because its answers decide who may log in")
        return value

    @field_validator("console_oidc_scope")
    @classmethod
    def _check_oidc_scope(cls, value: str) -> str:
        if "openid" not in value.split():
            raise ValueError("must contain `openid`")
        return value

    @field_validator("console_oidc_access")
    @classmethod
    def _check_oidc_access(cls, value: str | None) -> str | None:
        if value is not None:
            parse_oidc_access(value)
        return value


def parse_oidc_access(text: str) -> tuple[OidcAccessRule, ...]:
    """Parses a JSON list of rules, the value of CALLGATE_CONSOLE_OIDC_ACCESS.

    Raises ValueError if the list is invalid. The message says where in the list the first error is.
    """
    try:
        return tuple(TypeAdapter(list[OidcAccessRule]).validate_json(text))
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = "/".join(map(str, fault["loc"]))
        raise ValueError(f"must be a JSON list of rules: {place or 'the text'}: {fault['msg']}") from None
