"""Parses settings and other input of operators. Functions raise ValueError with a text that says what is wrong."""

import base64
import binascii
import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, SecretStr

SETTING_PREFIX = "CALLGATE_"
"""The prefix of the name of each setting, as an environment variable or as a secret file."""
TWILIO_API_VERSION = "2010-04-01"
MAX_IN_FLIGHT_LIMIT = 10_000
"""The highest value that an operator can set as the limit of concurrent creations of calls, for a process or a tenant."""
# The last label of a host name has a letter; that of an IP address has none.
_HOST_OR_SUFFIX_PATTERN = re.compile(r"\.?(?:[a-z0-9_-]+\.)*[a-z0-9_-]*[a-z_][a-z0-9_-]*")


def seconds_setting(default: float, description: str, *, maximum: float = 3600) -> Any:
    """Returns the pydantic field of a setting that is a time in seconds: more than 0, and at most `maximum`."""
    return Field(default, gt=0, le=maximum, description=description)


def decode_secret_keys(value: SecretStr) -> list[bytes]:
    """Decodes a comma-separated list of encryption keys, and returns the keys in the same order.

    Raises ValueError if a key is not 32 bytes in base64. The error's text contains no part of a key.
    """
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
    """Returns the base URL of Twilio's API without a final `/2010-04-01`, which Twilio's documentation appends.

    Raises ValueError for a URL that `parse_http_url` refuses, and for the URL of a resource below the base URL.
    """
    url = parse_http_url(text.strip()).removesuffix(f"/{TWILIO_API_VERSION}").rstrip("/")
    path = urlsplit(url).path
    if f"/{TWILIO_API_VERSION}" in path or "/Accounts" in path:
        raise ValueError(f"must end before /{TWILIO_API_VERSION}, as in https://api.twilio.com")
    return url


def parse_http_url(text: str) -> str:
    """Returns an http or https URL without its trailing slashes.

    Raises ValueError for any other text, and for a URL with a user, a query or a fragment. The host must be ASCII: other
    characters can look like ASCII ones, and libraries convert them in different ways.
    """
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("has an invalid host or port") from None
    if parts.scheme not in ("http", "https") or not host or re.search(r"[\s\x00-\x1f\x7f\\]", text):
        raise ValueError("must be an http:// or https:// URL")
    if not parts.netloc.isascii():  # `hostname` is in lower case, in which the Kelvin sign is an ASCII k
        raise ValueError("must have a host in its ASCII form, which begins with xn--")
    if parts.username is not None or set(text) & set("?#"):
        raise ValueError("must have no user, query or fragment")
    return text.rstrip("/")


def parse_console_url(text: str) -> str:
    """Returns the console's base URL without a final `/console`. Raises ValueError for a URL that `parse_http_url` refuses."""
    url = parse_http_url(text)
    return url.removesuffix("/console").rstrip("/") if urlsplit(url).path.endswith("/console") else url


def parse_public_url(text: str) -> str:
    """Returns an http or https URL without its trailing slashes.

    Raises ValueError for a URL that `parse_http_url` refuses, or to which Twilio would not send callbacks.
    """
    url = parse_http_url(text)
    host = urlsplit(url).hostname or ""
    if "_" in host or ":" in host:
        raise ValueError("must have a host name without underscores: Twilio refuses them and signs no IPv6 addresses")
    return url


def parse_delivery_allow(text: str) -> tuple[list[IPv4Network | IPv6Network], list[str]]:
    """Parses a comma-separated list of IP networks and host names. Returns the networks, and the host names.

    A host name with a leading dot stands for all its subdomains. Raises ValueError for other entries.
    """
    networks, hosts = [], []
    for entry in filter(None, (part.strip().lower() for part in text.split(","))):
        if _HOST_OR_SUFFIX_PATTERN.fullmatch(entry):
            hosts.append(entry)
            continue
        try:
            networks.append(ip_network(entry))
        except ValueError:
            raise ValueError(f"{entry!r} is neither a network like 10.0.0.0/8 nor a host like .svc.cluster.local") from None
    return networks, hosts


def check_key_set_location(text: str) -> str:
    """Returns `text` if it is the absolute path of a key set (RFC 7517), or the URL of a key set or discovery document.

    Raises ValueError for any other text, and for a URL that `is_https_or_loopback_url` does not accept.
    """
    if "://" not in text:
        if not Path(text).is_absolute():
            raise ValueError("must be an https:// URL or an absolute path")
        return text
    parse_http_url(text)
    if not is_https_or_loopback_url(text):
        raise ValueError("must be an https:// URL: an attacker who can change the key set can make tokens")
    return text


def is_https_or_loopback_url(url: str) -> bool:
    """Returns whether responses from the URL are safe from changes on the network: it is https, or http on this machine."""
    try:
        parts = urlsplit(parse_http_url(url))
    except ValueError:
        return False
    return parts.scheme == "https" or is_loopback_host(parts.hostname or "")


def is_loopback_host(host: str) -> bool:
    """Returns whether the host of a URL is this machine: `localhost` or a loopback address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def parse_networks(text: str) -> list[IPv4Network | IPv6Network]:
    """Returns the networks of a comma-separated list. An address counts as a network. Raises ValueError for other entries."""
    networks = []
    for entry in filter(None, (part.strip() for part in text.split(","))):
        try:
            networks.append(ip_network(entry))
        except ValueError:
            raise ValueError(f"{entry!r} is not a network like 10.0.0.0/8") from None
    return networks
