"""Makes the curl command that creates a call with the parameters of an earlier call."""

import json
import shlex
from collections.abc import Mapping
from typing import Any, Final

# Times of a scheduled call. They are meant for the first request only.
_SCHEDULE_PARAMETERS: Final = ("not_before", "ring_by")


def curl_command(parameters: Mapping[str, Any], *, account_sid: str) -> str:
    """Returns a curl command that creates a call with the `parameters` of a stored call.

    The command uses the environment variables CALLGATE_URL and CALLGATE_KEY. It lacks secrets, because they are never stored,
    and the times of a scheduled call, because they may have passed.
    """
    body = {name: value for name, value in parameters.items() if name not in _SCHEDULE_PARAMETERS} | {
        "account_sid": account_sid
    }
    lines = [
        'curl "$CALLGATE_URL/v1/calls"',
        '-H "Authorization: Bearer $CALLGATE_KEY"',
        "-H 'Content-Type: application/json'",
        f"-d {shlex.quote(json.dumps(body, ensure_ascii=False, indent=2))}",
    ]
    return " \\\n  ".join(lines)


def missing_secrets(parameters: Mapping[str, Any]) -> list[str]:
    """Returns descriptions of the secrets that the command of `curl_command` lacks because they are never stored."""
    missing = []
    if "sip_auth_username" in parameters:
        missing.append("the password for sip_auth_username")
    if any(isinstance(value, str) and "://***@" in value for value in parameters.values()):
        missing.append("user name and password of a URL")
    return missing
