"""All settings. Each is the environment variable `CALLGATE_<NAME>`, or a file with that name in lower case in /run/secrets.

A process calls `load_settings()` once and passes the result on. Importing this module reads no setting.
"""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from app.console_settings import ConsoleSettings
from app.database_url import DatabaseURL
from app.errors import CommandFailed
from app.misspelt import find_misspelt_settings
from app.setting_values import (
    MAX_IN_FLIGHT_LIMIT,
    SETTING_PREFIX,
    check_key_set_location,
    decode_secret_keys,
    is_https_or_loopback_url,
    parse_delivery_allow,
    parse_networks,
    parse_public_url,
    parse_twilio_base_url,
    seconds_setting,
)

SECRETS_DIR = Path("/run/secrets")


class SettingsError(CommandFailed):
    """Settings are missing or invalid. The message names every variable that is wrong."""

    exit_code = 2


class Settings(ConsoleSettings):
    """The settings that operators can choose. Times are in seconds unless the name has another unit."""

    model_config = SettingsConfigDict(env_prefix=SETTING_PREFIX, case_sensitive=False, frozen=True, hide_input_in_errors=True)

    database_url: SecretStr | None = Field(
        None, description="PostgreSQL 14 or newer, e.g. `postgresql://user:password@host:5432/callgate`."
    )
    state_dir: Path = Field(
        Path(".callgate"), description="Folder for the data that `callgate dev` and `callgate demo` keep between runs."
    )
    secret_keys: SecretStr | None = Field(
        None,
        description="Encryption keys for stored secrets, newest first, comma separated; each is 32 random bytes in "
        "base64 (`openssl rand -base64 32`).",
    )
    public_url: str | None = Field(
        None, description="The address at which Twilio can reach this service, e.g. `https://calls.example.com`."
    )
    twilio_base_url: str = Field("https://api.twilio.com", description="Base URL of Twilio's API; an account can have its own.")
    twilio_connect_timeout: float = seconds_setting(5.0, "Seconds to connect to Twilio, TLS included.", maximum=60)
    twilio_read_timeout: float = seconds_setting(
        35.0, "Seconds to wait for Twilio's response; Twilio's own timeout is about 30.", maximum=300
    )
    twilio_pool_timeout: float = seconds_setting(2.0, "Seconds to wait for a free connection to Twilio.", maximum=60)
    twilio_keepalive: float = seconds_setting(
        2.0, "Seconds to keep an idle connection to Twilio; must be much less than any server or proxy keeps it.", maximum=300
    )
    request_budget: float = seconds_setting(45.0, "Seconds that one creation may take in total, retries included.", maximum=600)
    max_connections: int = Field(
        1000,
        ge=10,
        le=100_000,
        description="Client connections that one process keeps open. Must be more than CALLGATE_MAX_IN_FLIGHT. Beyond the "
        "limit, the process closes the one that has waited longest for its client; if all are busy, it answers the new one "
        "with 503. The operations port has 100 of its own.",
    )
    head_timeout: float = seconds_setting(
        10.0, "Seconds for the request line and the headers to arrive, from the request's first byte.", maximum=300
    )
    body_timeout: float = seconds_setting(
        10.0, "Seconds for the body of a request to arrive; after that the response is 408.", maximum=300
    )
    write_timeout: float = seconds_setting(
        60.0, "Seconds after which the connection of a client that does not read its response is closed."
    )
    ops_port: int | None = Field(
        None,
        ge=1,
        le=65_535,
        description="Separate port of `callgate serve` and `callgate worker` for probes, metrics, documentation, the "
        "admin API and the console; the API's port then has no `/metrics`, `/v1/admin` and `/console`. `--ops-port` "
        "overrides it.",
    )
    key_attempts: int = Field(
        60,
        ge=1,
        le=1_000_000,
        description="Wrong API keys that one address may send to one process in a minute; more are answered with 429. A key "
        "that the process has seen to be valid is not affected.",
    )
    trusted_proxies: str | None = Field(
        None,
        description="Networks of the proxies in front of the API, comma separated: `10.0.0.0/8`. A client's address is then "
        "the last one in `X-Forwarded-For` that is in none of them; without it, it is the peer of the connection.",
    )
    linger: float = Field(
        0.0,
        ge=0,
        le=300,
        description="Seconds for which a stopping process still accepts requests, so that load balancers stop using it first. "
        "It closes each connection after its response.",
    )
    drain_timeout: float = seconds_setting(55.0, "Seconds for which a stopping process waits for its creations in progress.")
    database_pool_size: int = Field(
        10,
        ge=1,
        le=500,
        description="Database connections of one process, besides up to 15 for statements, notifications and probes.",
    )
    max_in_flight: int = Field(
        200, ge=1, le=MAX_IN_FLIGHT_LIMIT, description="Calls that an API process creates, or a worker dials, at the same time."
    )
    max_in_flight_per_tenant: int = Field(
        100,
        ge=1,
        le=MAX_IN_FLIGHT_LIMIT,
        description="How many of these one tenant can have, so that one slow account cannot use all.",
    )
    slow_when_queued: bool = Field(
        False, description="Whether an account with a pace pauses until Twilio has dialled the calls that it queues."
    )
    grant_counter_dir: Path | None = Field(
        None,
        description="Folder outside the database in which all workers keep how many scheduled calls they have dialled. "
        "So a restored database that lacks some is noticed.",
    )
    abandon_margin: float = seconds_setting(60.0, "Seconds after its budget at which a pending creation counts as abandoned.")
    resolve_searches: int = Field(
        5, ge=1, le=100, description="Successful searches of Twilio's list before an unknown creation counts as not started."
    )
    resolve_period: float = seconds_setting(
        900.0, "Seconds over which these searches are spread, at growing intervals.", maximum=86_400
    )
    refresh_interval: float = seconds_setting(
        2.0,
        "Seconds from a call's start to its first refresh, and the minimum between two refreshes. Ten times as long if "
        "Callgate gets the call's callbacks, which needs CALLGATE_PUBLIC_URL. A price is read at most every 15 seconds.",
    )
    delivery_allow: str | None = Field(
        None,
        description="Private networks and hosts that tenants' callback URLs may use, comma separated: `10.0.0.0/8`, "
        "`hooks.example.internal`, or `.svc.cluster.local` for all of its subdomains. Public addresses are always allowed; "
        "link-local and metadata addresses are always refused. `callgate dev` and `demo` add loopback.",
    )
    delivery_first_retry: float = seconds_setting(
        5.0, "Seconds until the first retry of a failed delivery; later retries scale with it."
    )
    retention_days: int | None = Field(
        None,
        ge=1,
        le=36_500,
        description="Days after which settled calls are deleted, with their events, deliveries and idempotency keys; never, if "
        "not set.",
    )
    audit_retention_days: int = Field(
        400, ge=1, le=36_500, description="Days after which events of the audit log are deleted, a month at a time."
    )
    rollup_retention_days: int = Field(
        35, ge=8, le=36_500, description="Days after which the hourly figures that the console shows are deleted."
    )
    workload_issuer: str | None = Field(
        None,
        min_length=1,
        description="The issuer of the cluster's service account tokens, exactly as in their `iss`; without it no token is "
        "accepted.",
    )
    workload_audience: str = Field("callgate", min_length=1, description="The audience that these tokens must have (`aud`).")
    workload_keys: str | None = Field(
        None,
        description="Where the issuer's key set is: the URL of a discovery document (`…/.well-known/openid-configuration`) or "
        "of the key set (`https://kubernetes.default.svc/openid/v1/jwks`), or the absolute path of a file; by default the "
        "issuer's own discovery document.",
    )
    workload_keys_ca_file: Path | None = Field(
        None, description="The file with the certificates to trust for that URL instead of the system's."
    )
    workload_keys_token_file: Path | None = Field(
        None, description="The file with the bearer token for that URL; the Kubernetes API server asks for one."
    )
    worker_poll_interval: float = seconds_setting(1.0, "Seconds between two looks for due work.", maximum=60)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="The lowest level that is logged.")
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="`json` or `text`; `auto` writes text to a terminal and JSON elsewhere."
    )
    log_pii: bool = Field(False, description="Whether logs show phone numbers and SIP users instead of pseudonyms.")

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        url = value.get_secret_value().strip()
        DatabaseURL.parse(url)
        return SecretStr(f"postgresql+asyncpg://{url.partition('://')[2]}")

    @field_validator("secret_keys")
    @classmethod
    def _check_secret_keys(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            decode_secret_keys(value)
        return value

    @field_validator("delivery_allow")
    @classmethod
    def _check_delivery_allow(cls, value: str | None) -> str | None:
        parse_delivery_allow(value or "")
        return value

    @field_validator("workload_keys")
    @classmethod
    def _check_workload_keys(cls, value: str | None) -> str | None:
        return None if value is None else check_key_set_location(value)

    @field_validator("trusted_proxies")
    @classmethod
    def _check_trusted_proxies(cls, value: str | None) -> str | None:
        parse_networks(value or "")
        return value

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, value: str | None) -> str | None:
        return None if value is None else parse_public_url(value)

    @field_validator("twilio_base_url")
    @classmethod
    def _check_twilio_base_url(cls, value: str) -> str:
        return parse_twilio_base_url(value)

    @model_validator(mode="after")
    def _check_request_budget(self) -> "Settings":
        attempt = self.twilio_pool_timeout + self.twilio_connect_timeout + self.twilio_read_timeout
        if self.request_budget < attempt:
            raise ValueError(
                f"{SETTING_PREFIX}REQUEST_BUDGET is {self.request_budget:g} s but the pool, connect and read timeouts of one "
                f"attempt add up to {attempt:g} s"
            )
        return self

    @model_validator(mode="after")
    def _check_workload_issuer(self) -> "Settings":
        if self.workload_issuer is None and (self.workload_keys or self.workload_keys_ca_file or self.workload_keys_token_file):
            raise ValueError(
                f"{SETTING_PREFIX}WORKLOAD_ISSUER is not set, so {SETTING_PREFIX}WORKLOAD_KEYS… would have no effect"
            )
        if (
            self.workload_issuer is not None
            and self.workload_keys is None
            and not is_https_or_loopback_url(self.workload_issuer)
        ):
            raise ValueError(
                f"{SETTING_PREFIX}WORKLOAD_ISSUER is not an https:// URL, so {SETTING_PREFIX}WORKLOAD_KEYS must be set"
            )
        return self

    def require_database_url(self) -> str:
        """Returns the PostgreSQL URL. Raises SettingsError if it is not set."""
        if self.database_url is None:
            raise SettingsError(f"{SETTING_PREFIX}DATABASE_URL is not set: set it to a PostgreSQL URL, or run `callgate dev`")
        return self.database_url.get_secret_value()

    def require_secret_keys(self) -> list[bytes]:
        """Returns the encryption keys, newest first. Raises SettingsError if they are not set."""
        if self.secret_keys is None:
            raise SettingsError(
                f"{SETTING_PREFIX}SECRET_KEYS is not set: stored secrets cannot be decrypted without it. Generate a key with "
                "`openssl rand -base64 32` and keep it safe"
            )
        return decode_secret_keys(self.secret_keys)


def load_settings(**overrides: object) -> Settings:
    """Returns the settings from `overrides`, else the environment, else /run/secrets. Raises SettingsError if one is wrong."""
    known = {SETTING_PREFIX + name.upper() for name in Settings.model_fields}
    problems: list[str] = []
    try:
        secrets_dir = SECRETS_DIR if SECRETS_DIR.is_dir() else None
        problems += find_misspelt_settings(
            known, os.environ, (file.name for file in secrets_dir.iterdir()) if secrets_dir else ()
        )
        settings = Settings(_secrets_dir=secrets_dir, **overrides)  # type: ignore[arg-type]  # pydantic checks them
    except ValidationError as error:
        for detail in error.errors(include_input=False, include_url=False):
            name = "".join(SETTING_PREFIX + str(part).upper() for part in detail["loc"][:1])
            reason = detail["msg"].removeprefix("Value error, ")
            problems.append(f"{name}: {reason}" if name else reason)
    except (OSError, ValueError) as error:  # for a file that cannot be read or is not UTF-8, pydantic raises a ValueError
        problems.append(f"{error}; every file in {SECRETS_DIR} must be readable and UTF-8")
    if problems:
        raise SettingsError("wrong settings: " + "; ".join(problems))
    return settings
