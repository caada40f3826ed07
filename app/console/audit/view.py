"""What the page of the audit log shows: its filters, and each event in words."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, get_args
from urllib.parse import quote, urlencode

from app.audit.events import UNNAMED_ACTOR, AuditAction
from app.audit.service import decode_audit_cursor
from app.audit.store import AuditEventRow, AuditFilter
from app.console.times import read_form_time
from app.http.operations import CONSOLE_PREFIX

AUDIT_ACTIONS: Final[tuple[str, ...]] = tuple(sorted(get_args(AuditAction)))
AUDIT_PATH: Final = f"{CONSOLE_PREFIX}/audit"
_MAX_FILTER_LENGTH: Final = 256
_ACTION_VERB_TEXTS: Final = {
    "create": "created",
    "update": "changed",
    "pause": "paused",
    "resume": "resumed",
    "suspend": "suspended",
    "add": "added",
    "search": "searched",
    "skip": "skipped",
    "revoke": "revoked",
    "delete": "deleted",
    "cancel": "calls canceled",
    "release": "released",
    "halt": "halted",
    "rotate": "encrypted again",
    "retry": "sent again",
    "replay": "sent again",
    "link": "one-time link made",
    "login": "logged in",
    "logout": "logged out",
    "reveal": "revealed",
    "end": "ended",
}
# The words for the nouns of actions (the parts before the last dot) that are not shown as they are.
_ACTION_NOUN_TEXTS: Final = {"console": "", "grants": "scheduled calls", "sip_credential": "SIP credential"}
_PLURAL_NOUNS_BY_ACTION: Final = {"delivery.replay": "deliveries"}
# The kinds of subjects, by noun or by action, where the action's text does not say the kind.
_SUBJECT_KINDS: Final = {
    "console": "session",
    "grants": "server",
    "secrets": "encryption key",
    "delivery.replay": "since",
}
_KINDS_ON_TENANTS_PAGE: Final = frozenset({"tenant", "account", "credential", "key", "sip_credential", "workload"})
_ACTOR_TEXTS: Final = {"cli": "command", "apply": "callgate apply", "key": "API key", "link": "one-time link", "oidc": "person"}


@dataclass(frozen=True, slots=True)
class AuditPageQuery:
    """The query of the page's URL: the filters, as typed in the form, and the cursor, which says where the page begins."""

    tenant: str = ""
    actor: str = ""
    action: str = ""
    since: str = ""
    until: str = ""
    cursor: str = ""

    def parse_filters(self, tenant_id: str | None) -> tuple[AuditFilter, dict[str, str]]:
        """Returns the filters, and a dict from the name of each invalid filter to an error text.

        If `tenant_id` is not None, it replaces the tenant in the form: the list then has only events of this tenant.
        """
        errors: dict[str, str] = {}
        values: dict[str, str | None] = {}
        for name, text in {"tenant": self.tenant, "actor": self.actor, "action": self.action}.items():
            if "\x00" in text or len(text) > _MAX_FILTER_LENGTH:
                errors[name] = "No such value exists."
            else:
                values[name] = text or None
        times: dict[str, datetime | None] = {}
        for name, text in {"since": self.since, "until": self.until}.items():
            try:
                times[name] = read_form_time(text)
            except ValueError:
                errors[name] = "Give a time in UTC, such as 2026-11-28T09:30."
        before = decode_audit_cursor(self.cursor) if self.cursor else None
        if self.cursor and before is None:
            errors["cursor"] = "This is no page of the list: it begins with the newest event."
        filters = AuditFilter(
            tenant_id=tenant_id if tenant_id is not None else values.get("tenant"),
            actor_name=values.get("actor"),
            action=values.get("action"),
            since=times.get("since"),
            until=times.get("until"),
            before=before,
        )
        return filters, errors

    def page_url(self, cursor: str | None) -> str | None:
        """Returns the URL of the page that begins at the cursor, with the same filters. Returns None if `cursor` is None."""
        return None if cursor is None else self._list_url(cursor)

    @property
    def first_page_url(self) -> str | None:
        """The URL of the first page, with the same filters; None if this is the first page."""
        return self._list_url("") if self.cursor else None

    def _list_url(self, cursor: str) -> str:
        fields = {"tenant": self.tenant, "actor": self.actor, "action": self.action, "since": self.since, "until": self.until}
        given = {name: value for name, value in {**fields, "cursor": cursor}.items() if value}
        return f"{AUDIT_PATH}?{urlencode(given)}" if given else AUDIT_PATH


@dataclass(frozen=True, slots=True)
class AuditLine:
    """An event of the audit log, as one line of the page's list."""

    at: datetime
    actor_kind: str
    actor_name: str
    action: str
    action_text: str
    """The action in words, such as "credential revoked"."""
    tenant_id: str | None
    subject: str
    subject_kind: str
    """What kind of thing was changed, such as "session"; "" if `action_text` says it."""
    subject_at: datetime | None
    """The subject as a time, if the action is `delivery.replay`, whose subject is a time; otherwise None."""
    changed: str
    """The names of the members that were changed, joined by commas."""
    request_id: str | None

    @property
    def subject_path(self) -> str | None:
        """The path of the page about the thing that was changed; None if there is no such page."""
        noun = self.action.partition(".")[0]
        subject, tenant = quote(self.subject, safe=""), quote(self.tenant_id or "", safe="")
        if noun == "call":
            return f"{CONSOLE_PREFIX}/calls/{subject}"
        if not tenant:
            return None
        if noun in _KINDS_ON_TENANTS_PAGE:
            return f"{CONSOLE_PREFIX}/tenants/{tenant}"
        if noun == "queue":
            return f"{CONSOLE_PREFIX}/queues/{tenant}/{subject}"
        return f"{CONSOLE_PREFIX}/deliveries/{tenant}/{subject}" if self.action == "delivery.retry" else None

    @classmethod
    def from_row(cls, row: AuditEventRow) -> "AuditLine":
        noun, _, verb = row.action.rpartition(".")
        noun_text = _PLURAL_NOUNS_BY_ACTION.get(row.action) or _ACTION_NOUN_TEXTS.get(noun, noun)
        action_text = f"{noun_text} {_ACTION_VERB_TEXTS.get(verb, verb)}".strip()
        return cls(
            at=row.at.astimezone(UTC),
            actor_kind=_ACTOR_TEXTS.get(row.actor_kind, row.actor_kind),
            actor_name=row.actor_name or UNNAMED_ACTOR,
            action=row.action,
            action_text=action_text,
            tenant_id=row.tenant_id,
            subject=row.subject,
            subject_kind=_SUBJECT_KINDS.get(row.action) or _SUBJECT_KINDS.get(noun, ""),
            subject_at=datetime.fromisoformat(row.subject) if row.action == "delivery.replay" else None,
            changed=", ".join(row.changed),
            request_id=row.request_id,
        )
