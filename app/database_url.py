"""Parses PostgreSQL URLs as libpq does: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING

A parameter that is not supported is an error, and is never ignored.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode

_SCHEMES = ("postgresql", "postgres", "postgresql+asyncpg")
_DEFAULT_PORT = 5432
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_TARGET_SESSION_ATTRS = ("any", "primary", "standby", "prefer-standby", "read-write", "read-only")
# `ssl` is another name for sslmode, with the values that other drivers use.
_SSL_MODES_BY_ALIAS = {mode: mode for mode in _SSL_MODES} | {
    "true": "require",
    "1": "require",
    "false": "disable",
    "0": "disable",
}
_TLS_VERSIONS = ("TLSv1.2", "TLSv1.3")
# Values that asyncpg uses anyway, or that make no difference to it.
_VALUES_WITHOUT_EFFECT = {
    "client_encoding": ("utf8", "UTF8", "utf-8", "UTF-8", "auto"),
    "gssencmode": ("disable", "prefer"),
    "load_balance_hosts": ("disable",),
    "sslcompression": ("0", "1"),
    "sslsni": ("1",),
}
# Does not show the text, which may be the end of a password.
_INVALID_HOST_MESSAGE = "has an invalid host or port: write a / or ? in the password as %2F or %3F"
_HINTS_BY_PARAMETER = {
    "hostaddr": "use host for the address",
    "pgbouncer": "leave it out: poolers are detected; use PgBouncer 1.21 or newer with max_prepared_statements above 0",
    "search_path": "use options=-csearch_path=…",
    "service": "use host, user and dbname",
}


class DatabaseURLError(ValueError):
    """A PostgreSQL URL is invalid.

    The message is one line. If a query parameter is wrong, the message names it, and does not show a value that may be secret.
    An unknown parameter is not named if its name may be a part of the password.
    """


@dataclass(frozen=True, slots=True)
class Keepalive:
    """The settings of TCP keepalive, with which the client's socket detects an unreachable server.

    A value of None means the operating system's default.
    """

    on: bool = True
    idle_s: int | None = 10
    interval_s: int | None = 5
    count: int | None = 3
    unacknowledged_ms: int | None = 10_000


@dataclass(frozen=True, slots=True)
class DatabaseURL:
    # Host and port, in the order of the URL. Empty: PGHOST or this machine.
    hosts: tuple[tuple[str, int], ...]
    # The arguments of asyncpg.connect() that do not depend on the host.
    connect_arguments: Mapping[str, Any] = field(repr=False)
    server_settings: Mapping[str, str]
    # The timeout for each host.
    connect_timeout_s: float | None
    # The size of the cache of prepared statements; None: the driver's default.
    statement_cache_size: int | None
    keepalive: Keepalive

    @classmethod
    def parse(cls, text: str) -> "DatabaseURL":
        """Parses a PostgreSQL URL. Raises DatabaseURLError if it is invalid or has an unsupported parameter."""
        return _DatabaseURLParser(text).read_database_url()


class _DatabaseURLParser:
    """Parses one URL. Reading a query parameter removes it, so parameters that are left at the end are not supported."""

    def __init__(self, text: str) -> None:
        scheme, separator, rest = text.strip().partition("://")
        if not separator or scheme not in _SCHEMES:
            raise DatabaseURLError("must start with postgresql://")
        if any(character.isspace() or not character.isprintable() for character in rest):
            raise DatabaseURLError("contains a space or a control character: percent-encode it, such as %20")
        rest, hash_sign, _ = rest.partition("#")
        if hash_sign:
            raise DatabaseURLError("contains a #: write it as %23")
        rest, _, query = rest.partition("?")
        authority, _, path = rest.partition("/")
        if set(path) & set("@/"):
            raise DatabaseURLError(_INVALID_HOST_MESSAGE)
        # The last @ ends the password, which may contain others.
        user, _, self._hosts = authority.rpartition("@")
        self._user, _, self._password = (unquote(part) for part in user.partition(":"))
        self._database = unquote(path)
        self._query_may_begin_in_password = "@" in query
        self._parameters: dict[str, str] = {}
        # As in libpq, a + stands for itself and not for a space.
        for name, value in parse_qsl(query.replace("+", "%2B"), keep_blank_values=True):
            if name in ("host", "port") and name in self._parameters:
                self._parameters[name] += f",{value}"  # SQLAlchemy repeats `host` for several hosts
            else:
                self._parameters[name] = value

    def read_database_url(self) -> DatabaseURL:
        for name, accepted in _VALUES_WITHOUT_EFFECT.items():
            self._take_choice_parameter(name, accepted)
        url = DatabaseURL(
            hosts=self._read_hosts(),
            connect_arguments=self._connect_arguments(),
            server_settings=self._server_settings(),
            connect_timeout_s=self._take_number_parameter("connect_timeout") or None,
            statement_cache_size=self._statement_cache_size(),
            keepalive=self._keepalive(),
        )
        for name in self._parameters:
            if self._query_may_begin_in_password:
                raise DatabaseURLError("has an unsupported parameter, or a ? in the password: write that ? as %3F")
            hint = _HINTS_BY_PARAMETER.get(name, "it is unknown")
            raise DatabaseURLError(f"has the unsupported parameter {name if name.isprintable() else '?'}: {hint}")
        return url

    def _connect_arguments(self) -> dict[str, Any]:
        tls = self._tls_arguments()
        url: dict[str, Any] = {
            "user": self._parameters.pop("user", self._user) or None,
            "password": self._parameters.pop("password", self._password) or None,
            "database": self._parameters.pop("dbname", self._parameters.pop("database", self._database)) or None,
            "passfile": self._take_file_parameter("passfile"),
            "target_session_attrs": self._take_choice_parameter("target_session_attrs", _TARGET_SESSION_ATTRS),
        }
        return {name: value for name, value in url.items() if value is not None} | tls

    def _read_hosts(self) -> tuple[tuple[str, int], ...]:
        hosts = self._parameters.pop("host", "") or self._hosts
        port = self._parameters.pop("port", "")
        if not hosts:
            if port:
                raise DatabaseURLError("has a port but no host")
            return ()
        names, ports = hosts.split(","), port.split(",")
        if len(ports) == 1:
            ports *= len(names)
        if len(ports) != len(names):
            raise DatabaseURLError(f"has {len(names)} hosts and {len(ports)} ports")
        return tuple(map(_parse_host, names, ports))

    def _tls_arguments(self) -> dict[str, Any]:
        mode = self._take_choice_parameter("sslmode", _SSL_MODES)
        if (given := self._take_choice_parameter("ssl", tuple(_SSL_MODES_BY_ALIAS))) is not None:
            mode = mode or _SSL_MODES_BY_ALIAS[given]
        tls_parameters = {name: self._take_file_parameter(name) for name in ("sslrootcert", "sslcert", "sslkey", "sslcrl")} | {
            "ssl_min_protocol_version": self._take_choice_parameter("ssl_min_protocol_version", _TLS_VERSIONS),
            "ssl_max_protocol_version": self._take_choice_parameter("ssl_max_protocol_version", _TLS_VERSIONS),
            "sslnegotiation": self._take_choice_parameter("sslnegotiation", ("postgres", "direct")),
            "sslpassword": self._parameters.pop("sslpassword", None),
        }
        if self._take_choice_parameter("channel_binding", ("disable", "prefer", "require")) == "require":
            mode = self._sslmode_for_channel_binding(mode, tls_parameters["sslrootcert"])
            tls_parameters["sslrootcert"] = tls_parameters["sslrootcert"] or "system"
        given_parameters = {name: value for name, value in tls_parameters.items() if value is not None}
        if tls_parameters["sslrootcert"] == "system":
            return self._system_certificate_arguments(mode, given_parameters)
        query = urlencode(given_parameters | ({"sslmode": mode} if mode else {}))
        return {"dsn": f"postgresql://?{query}"} if query else {}

    def _sslmode_for_channel_binding(self, mode: str | None, root_certificate: str | None) -> str:
        """Returns the sslmode for a URL that requires channel binding, which asyncpg does not support.

        With this mode, asyncpg verifies the server's certificate instead. `mode` is the URL's sslmode. The result is
        `verify-ca` if `mode` is `verify-ca` and the URL names a root certificate; otherwise it is `verify-full`. Raises
        DatabaseURLError if `mode` is `disable` or `allow`.
        """
        if mode in ("disable", "allow"):
            raise DatabaseURLError(f"has channel_binding=require, which does not work with sslmode={mode}")
        return mode if mode == "verify-ca" and root_certificate else "verify-full"

    def _system_certificate_arguments(self, mode: str | None, tls_parameters: Mapping[str, str]) -> dict[str, Any]:
        """Returns the TLS arguments of `asyncpg.connect` for a URL with `sslrootcert=system`.

        As libpq does, asyncpg then verifies the server's certificate and host name with the root certificates of this machine.
        `mode` is the URL's sslmode, and `tls_parameters` are its other TLS parameters. Raises DatabaseURLError if one of them
        does not work with `sslrootcert=system`.
        """
        if mode not in (None, "require", "verify-full"):
            raise DatabaseURLError(f"has sslrootcert=system, which requires sslmode=verify-full, and sslmode={mode}")
        for name in tls_parameters.keys() - {"sslrootcert", "sslnegotiation"}:
            raise DatabaseURLError(f"has the parameter {name}, which does not work with sslrootcert=system")
        return {"ssl": True} | ({"direct_tls": True} if tls_parameters.get("sslnegotiation") == "direct" else {})

    def _server_settings(self) -> dict[str, str]:
        fallback = self._parameters.pop("fallback_application_name", "callgate")
        settings = {"application_name": self._parameters.pop("application_name", "") or fallback, "timezone": "UTC"}
        if options := self._parameters.pop("options", ""):
            settings["options"] = options
        return settings

    def _statement_cache_size(self) -> int | None:
        """Returns the URL's limit of cached prepared statements per connection; None if the URL has no limit.

        The parameter is `prepared_statement_cache_size` (SQLAlchemy's name) or else `statement_cache_size` (asyncpg's name).
        """
        sizes = [self._take_number_parameter(name) for name in ("prepared_statement_cache_size", "statement_cache_size")]
        return next((size for size in sizes if size is not None), None)

    def _keepalive(self) -> Keepalive:
        on = self._take_choice_parameter("keepalives", ("0", "1")) != "0"
        defaults = Keepalive()
        idle, interval, count, unacknowledged = (
            default if (given := self._take_number_parameter(name)) is None else given or None
            for name, default in (
                ("keepalives_idle", defaults.idle_s),
                ("keepalives_interval", defaults.interval_s),
                ("keepalives_count", defaults.count),
                ("tcp_user_timeout", defaults.unacknowledged_ms),
            )
        )
        return Keepalive(on, idle, interval, count, unacknowledged)

    def _take_choice_parameter(self, name: str, accepted: tuple[str, ...]) -> str | None:
        value = self._parameters.pop(name, None)
        if value is not None and value not in accepted:
            raise DatabaseURLError(f"has an invalid {name}: it must be one of {', '.join(accepted)}")
        return value

    def _take_number_parameter(self, name: str) -> int | None:
        value = self._parameters.pop(name, None)
        if value is None:
            return None
        if not (value.isascii() and value.isdecimal() and len(value) < 7):
            raise DatabaseURLError(f"has an invalid {name}: it must be a whole number")
        return int(value)

    def _take_file_parameter(self, name: str) -> str | None:
        path = self._parameters.pop(name, None) or None
        if path is not None and (name, path) != ("sslrootcert", "system") and not os.access(path, os.R_OK):
            raise DatabaseURLError(f"has a file as {name} that cannot be read")
        return path


def _parse_host(text: str, port: str) -> tuple[str, int]:
    """Returns host and port. `text` is a host name or an IP address, with or without a port, or the folder of a Unix socket.

    If `text` has no port, uses `port`, or 5432 if `port` is empty. Raises DatabaseURLError if the host or the port is invalid.
    """
    text = unquote(text)
    if text.startswith("/"):
        return text, _parse_port(port)
    if text.startswith("["):
        host, bracket, own_port = text[1:].partition("]")
        if not bracket or own_port[:1] not in ("", ":"):
            raise DatabaseURLError("has an invalid host or port: write an IPv6 address as [::1]:5432")
        own_port = own_port[1:]
    else:
        host, _, own_port = text.partition(":")
    if not host or set(host) & set("/?@[] ") or not _is_dns_encodable(host):
        raise DatabaseURLError(_INVALID_HOST_MESSAGE)
    return host, _parse_port(own_port or port)


def _is_dns_encodable(host: str) -> bool:
    """Returns whether the host can be encoded for DNS. An empty or too long label, or a NUL, makes this impossible."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return "\0" not in host


def _parse_port(text: str) -> int:
    if not text:
        return _DEFAULT_PORT
    if not (text.isascii() and text.isdecimal() and 0 < int(text[:6]) < 65536):
        raise DatabaseURLError(_INVALID_HOST_MESSAGE)
    return int(text)
