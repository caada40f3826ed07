"""Every setting, from the environment only: `CALLGATE_<NAME>`, or a file of that name (lower case) in /run/secrets.

Nothing here is read at import: `load_settings()` is called once per process and the result is passed on.
"""

import base64
import binascii
import os
import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.database_url import DatabaseURL
from app.errors import CommandFailed
from app.misspelt import misspelt

PREFIX = "CALLGATE_"
SECRETS_DIR = Path("/run/secrets")

_TWILIO_VERSION = "2010-04-01"
# A host's last label has a letter, which tells it from an address.
_HOST_OR_SUFFIX = re.compile(r"\.?(?:[a-z0-9_-]+\.)*[a-z0-9_-]*[a-z_][a-z0-9_-]*")


class SettingsError(CommandFailed):
    """The environment cannot be used as it is; the message names every variable that is wrong."""

    exit_code = 2


class Settings(BaseSettings):
    """What an operator can choose. Times are in seconds unless the name says otherwise."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, case_sensitive=False, frozen=True, hide_input_in_errors=True)

    database_url: SecretStr | None = Field(
        None, description="PostgreSQL 14 or newer, e.g. `postgresql://user:password@host:5432/callgate`."
    )
    state_dir: Path = Field(
        Path(".callgate"), description="Folder for what `callgate dev` and `callgate demo` keep between runs."
    )
    secret_keys: SecretStr | None = Field(
        None,
        description="Encryption keys for stored secrets, newest first, comma separated; each is 32 random bytes in "
        "base64 (`openssl rand -base64 32`).",
    )
    public_url: str | None = Field(
        None,
        description="The address at which Twilio can reach this service, e.g. `https://calls.example.com`.",
    )
    twilio_base_url: str = Field("https://api.twilio.com", description="Where Twilio's API is; an account may have its own.")
    twilio_connect_timeout: float = Field(5.0, gt=0, le=60, description="Seconds to connect to Twilio, TLS included.")
    twilio_read_timeout: float = Field(
        35.0,
        gt=0,
        le=300,
        description="Seconds to wait for Twilio's answer; Twilio itself gives up after about 30.",
    )
    twilio_pool_timeout: float = Field(2.0, gt=0, le=60, description="Seconds to wait for a free connection to Twilio.")
    twilio_keepalive: float = Field(
        2.0,
        gt=0,
        le=300,
        description="Seconds that an idle connection to Twilio is kept; far less than any server or proxy on the way keeps it.",
    )
    request_budget: float = Field(
        45.0, gt=0, le=600, description="Seconds that one creation may take in all, retries included."
    )
    max_connections: int = Field(
        1000,
        ge=10,
        le=100_000,
        description="Connections that one process has open to its clients. Beyond it the one that has waited longest for its "
        "client is closed; when all are busy, the new one is answered 503.",
    )
    head_timeout: float = Field(
        10.0, gt=0, le=300, description="Seconds in which a request's line and headers have to arrive, from its first byte."
    )
    body_timeout: float = Field(
        10.0, gt=0, le=300, description="Seconds in which a request's body has to arrive; then the answer is 408."
    )
    write_timeout: float = Field(
        60.0, gt=0, le=3600, description="Seconds after which a client that takes nothing of its answer is given up."
    )
    ops_port: int | None = Field(
        None,
        ge=1,
        le=65_535,
        description="A port for probes, metrics and documentation alone, of `callgate serve` and `callgate worker`; the API's "
        "own port then has no `/metrics`. `--ops-port` overrides it.",
    )
    linger: float = Field(
        0.0,
        ge=0,
        le=300,
        description="Seconds that a stopping process still takes requests, closing each connection after its answer, so that "
        "balancers let go of it first.",
    )
    drain_timeout: float = Field(
        55.0, gt=0, le=3600, description="Seconds that a stopping process may take to finish the creations it has begun."
    )
    database_pool_size: int = Field(
        10, ge=1, le=500, description="Database connections of one process, besides five for creations and changes."
    )
    max_in_flight: int = Field(
        200, ge=1, le=10_000, description="Creations that one process has on the way to Twilio at one time."
    )
    max_in_flight_per_tenant: int = Field(
        100, ge=1, le=10_000, description="How many of them may be one tenant's, so that one slow account leaves room."
    )
    abandon_margin: float = Field(
        60.0, gt=0, le=3600, description="Seconds beyond its budget after which a pending creation counts as abandoned."
    )
    resolve_searches: int = Field(
        5, ge=1, le=100, description="Clean searches of Twilio's list before an unknown creation counts as not started."
    )
    resolve_period: float = Field(
        900.0, gt=0, le=86_400, description="Seconds over which those searches are spread, ever further apart."
    )
    refresh_interval: float = Field(
        2.0,
        gt=0,
        le=3600,
        description="Seconds from a call's start to its first refresh, and the least between two.",
    )
    delivery_allow: str | None = Field(
        None,
        description="Private networks and hosts that tenants' callback URLs may name, comma separated: `10.0.0.0/8`, "
        "`hooks.example.internal`, `.svc.cluster.local` for all hosts below. Public ones need no mention; link-local and "
        "metadata addresses are always refused. `callgate dev` and `demo` add loopback.",
    )
    delivery_first_retry: float = Field(
        5.0, gt=0, le=3600, description="Seconds until a delivery that failed is tried again; the next attempts in proportion."
    )
    retention_days: int | None = Field(
        None,
        ge=1,
        le=36_500,
        description="Days after which settled calls and all that belongs to them are deleted; none: never.",
    )
    worker_poll_interval: float = Field(1.0, gt=0, le=60, description="Seconds the worker waits when it found nothing to do.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="The least level logged.")
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="`json` for machines, `text` for people; `auto` writes text to a terminal and JSON elsewhere."
    )
    log_pii: bool = Field(False, description="Whether logs show phone numbers and SIP users as they are, not as tokens.")

    @field_validator("database_url")
    @classmethod
    def _name_the_driver(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        url = value.get_secret_value().strip()
        DatabaseURL.parse(url)
        return SecretStr(f"postgresql+asyncpg://{url.partition('://')[2]}")

    @field_validator("secret_keys")
    @classmethod
    def _decode_keys(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            decode_secret_keys(value)
        return value

    @field_validator("delivery_allow")
    @classmethod
    def _check_delivery_allow(cls, value: str | None) -> str | None:
        parse_delivery_allow(value or "")
        return value

    @field_validator("public_url")
    @classmethod
    def _check_url(cls, value: str | None) -> str | None:
        return None if value is None else _parse_address(value)

    @field_validator("twilio_base_url")
    @classmethod
    def _check_twilio_base_url(cls, value: str) -> str:
        return parse_twilio_base_url(value)

    @field_validator("public_url")
    @classmethod
    def _twilio_can_call_it(cls, value: str | None) -> str | None:
        host = urlsplit(value).hostname or "" if value else ""
        if "_" in host or ":" in host:
            raise ValueError("must have a host name without underscores: Twilio calls no other, and signs no IPv6 address")
        return value

    @model_validator(mode="after")
    def _budget_covers_one_attempt(self) -> "Settings":
        attempt = self.twilio_pool_timeout + self.twilio_connect_timeout + self.twilio_read_timeout
        if self.request_budget < attempt:
            raise ValueError(
                f"{PREFIX}REQUEST_BUDGET is {self.request_budget:g} s but the pool, connect and read timeouts of one "
                f"attempt add up to {attempt:g} s"
            )
        return self

    def require_database_url(self) -> str:
        """The URL, or SettingsError when there is none."""
        if self.database_url is None:
            raise SettingsError(f"{PREFIX}DATABASE_URL is not set: give a PostgreSQL address, or start `callgate dev`")
        return self.database_url.get_secret_value()

    def require_secret_keys(self) -> list[bytes]:
        """The encryption keys, newest first, or SettingsError when there are none."""
        if self.secret_keys is None:
            raise SettingsError(
                f"{PREFIX}SECRET_KEYS is not set: stored secrets cannot be opened without it. Make a key with "
                "`openssl rand -base64 32` and keep it safe"
            )
        return decode_secret_keys(self.secret_keys)


def decode_secret_keys(value: SecretStr) -> list[bytes]:
    """The keys in their order; ValueError (which names no key material) when one is not 32 bytes of base64."""
    keys = []
    for position, text in enumerate(value.get_secret_value().split(","), start=1):
        try:
            key = base64.b64decode(text.strip(), altchars=b"-_" if set(text) & set("-_") else None, validate=True)
        except binascii.Error:
            key = b""
        if len(key) != 32:
            raise ValueError(f"key {position} is not 32 bytes in base64")
        keys.append(key)
    return keys


def parse_twilio_base_url(text: str) -> str:
    """Without the API's version, which Twilio's documentation shows with the address; ValueError for what is no base URL."""
    url = _parse_address(text.strip()).removesuffix(f"/{_TWILIO_VERSION}").rstrip("/")
    path = urlsplit(url).path
    if f"/{_TWILIO_VERSION}" in path or "/Accounts" in path:
        raise ValueError(f"must end before /{_TWILIO_VERSION}, as in https://api.twilio.com")
    return url


def _parse_address(text: str) -> str:
    """An address without the slash at its end."""
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("has a host or port that is none") from None
    if parts.scheme not in ("http", "https") or not host or re.search(r"[\s\x00-\x1f\x7f\\]", text):
        raise ValueError("must be an http:// or https:// address")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("must have no user, query or fragment")
    return text.rstrip("/")


def parse_delivery_allow(text: str) -> tuple[list[IPv4Network | IPv6Network], list[str]]:
    """The networks and the hosts; a leading dot stands for all hosts below. ValueError for what is neither."""
    networks, hosts = [], []
    for entry in filter(None, (part.strip().lower() for part in text.split(","))):
        if _HOST_OR_SUFFIX.fullmatch(entry):
            hosts.append(entry)
            continue
        try:
            networks.append(ip_network(entry))
        except ValueError:
            raise ValueError(f"{entry!r} is neither a network like 10.0.0.0/8 nor a host like .svc.cluster.local") from None
    return networks, hosts


def load_settings(**overrides: object) -> Settings:
    """Settings from the environment; SettingsError names every wrong variable in one message."""
    secrets_dir = SECRETS_DIR if SECRETS_DIR.is_dir() else None
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    faults = list(misspelt(known, os.environ, (file.name for file in secrets_dir.iterdir()) if secrets_dir else ()))
    try:
        settings = Settings(_secrets_dir=secrets_dir, **overrides)  # type: ignore[arg-type]  # pydantic checks them
    except ValidationError as error:
        for fault in error.errors(include_input=False, include_url=False):
            name = "".join(PREFIX + str(part).upper() for part in fault["loc"][:1])
            reason = fault["msg"].removeprefix("Value error, ")
            faults.append(f"{name}: {reason}" if name else reason)
        raise SettingsError("wrong settings: " + "; ".join(faults)) from None
    if faults:
        raise SettingsError("wrong settings: " + "; ".join(faults))
    return settings
