"""Types of the audit log: who acts (`Actor`), and the names of the actions."""

import os
import pwd
from dataclasses import dataclass
from typing import Final, Literal

ActorKind = Literal["cli", "apply", "key", "workload", "link", "oidc"]
AuditAction = Literal[
    "tenant.create",
    "tenant.update",
    "tenant.suspend",
    "tenant.resume",
    "account.create",
    "account.update",
    "account.search",
    "account.skip",
    "credential.add",
    "credential.update",
    "credential.revoke",
    "key.create",
    "key.revoke",
    "workload.create",
    "workload.delete",
    "sip_credential.create",
    "sip_credential.update",
    "sip_credential.delete",
    "queue.create",
    "queue.update",
    "queue.pause",
    "queue.resume",
    "queue.cancel",
    "call.end",
    "call.reveal",
    "delivery.retry",
    "delivery.replay",
    "grants.halt",
    "grants.release",
    "secrets.rotate",
    "console.link",
    "console.login",
    "console.logout",
]

UNNAMED_ACTOR: Final = "?"
"""Shown instead of the name of an actor that has no name. If a filter has this value, it selects the events of such actors."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does what the audit log records: the user of a command, or the client of a request.

    What `name` is depends on `kind`:
    - "cli" and "apply", for commands: the operating system's user, or None if the user has no name.
    - "key": the public part of the API key (`cgk_…`).
    - "workload": the namespace and the name of the service account.
    - "link" and "oidc": the person who logged in to the console by a one-time link or by OpenID Connect.

    `request_id` is None for a command.
    """

    kind: ActorKind
    name: str | None
    request_id: str | None = None


def command_actor(kind: Literal["cli", "apply"] = "cli") -> Actor:
    """Returns the operating system's user who runs this process, as the actor of a command.

    `kind` is "apply" for `callgate apply`, and "cli" for all other commands. The actor's name is None if the user has no name,
    as often in a container.
    """
    try:
        return Actor(kind, pwd.getpwuid(os.getuid()).pw_name)
    except KeyError:
        return Actor(kind, None)
