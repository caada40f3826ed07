"""Writes the command line that requests a call again. Pure."""

import json
import shlex
from collections.abc import Mapping
from typing import Any, Final

# Times of a scheduled call. They are meant for the first request only.
_TIME_PARAMETERS: Final = ("not_before", "ring_by")


def curl_command(parameters: Mapping[str, Any], *, account_sid: str) -> str:
    """Returns a command that requests a new call with these parameters. It reads CALLGATE_URL and CALLGATE_KEY in the shell.

    Leaves out secrets, which are never stored, and the times of a scheduled call, which may have passed.
    """
    body = {name: value for name, value in parameters.items() if name not in _TIME_PARAMETERS} | {"account_sid": account_sid}
    lines = [
        'curl "$CALLGATE_URL/v1/calls"',
        '-H "Authorization: Bearer $CALLGATE_KEY"',
        "-H 'Content-Type: application/json'",
        f"-d {shlex.quote(json.dumps(body, ensure_ascii=False, indent=2))}",
    ]
    return " \\\n  ".join(lines)


def missing_secrets(parameters: Mapping[str, Any]) -> list[str]:
    """Returns the secrets that the command lacks, because they are never stored, in words for the page."""
    missing = []
    if "sip_auth_username" in parameters:
        missing.append("the password for sip_auth_username")
    if any(isinstance(value, str) and "://***@" in value for value in parameters.values()):
        missing.append("user name and password of a URL")
    return missing
