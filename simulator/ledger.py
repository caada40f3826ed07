"""The judge of "one request, at most one ring": what creations arrived, and which of them became a call.

A creation is recorded as received before anything else is done about it, and as accepted exactly when it gets
its sid.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from simulator.form import Form

HEADERS_OF_INTEREST = (
    "accept",
    "content-type",
    "idempotency-key",
    "i-twilio-idempotency-token",
    "traceparent",
    "user-agent",
    "x-request-id",
    "x-twilio-client",
)


class Entry(BaseModel):
    """One creation that arrived: `POST …/Calls.json` or `POST …/Calls`."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    sequence: int = Field(description="Counts what was received since the start or the last reset, from 1.")
    received_at: datetime
    account_sid: str = Field(description="As in the path, whether or not there is such an account.")
    credential: str | None = Field(description="The user name of the Authorization header: an AC… or SK… sid.")
    headers: dict[str, str] = Field(description=f"Those of interest: {', '.join(HEADERS_OF_INTEREST)}.")
    form: dict[str, list[str]] | None = Field(
        None, description="Every field as it came, secrets masked. Null: the body never arrived whole."
    )
    secret_sha256: dict[str, str] = Field(
        default_factory=dict,
        description="SHA-256, in hex, of each secret parameter that arrived. No key: it did not arrive.",
    )
    to: str | None = None
    from_: str | None = Field(None, alias="from")
    fault: str | None = Field(None, description="What was made to go wrong with it on purpose.")
    accepted: bool = Field(False, description="True exactly when a call was created, that is, when a phone rings.")
    accepted_sequence: int | None = Field(None, description="Counts what was accepted, from 1.")
    accepted_at: datetime | None = None
    sid: str | None = None
    answer_status: int | None = Field(
        None,
        description="HTTP status given to the server to send, null for none. Whether it was heard nobody here can know.",
    )
    answer_code: int | None = Field(None, description="Twilio's error code in that answer.")


class Ledger:
    """`received` and `accepted` stay exact when the oldest entries, beyond `max_entries`, are forgotten."""

    def __init__(self, max_entries: int) -> None:
        self._entries: deque[Entry] = deque(maxlen=max_entries)
        self.received = 0
        self.accepted = 0

    @property
    def forgotten(self) -> int:
        return self.received - len(self._entries)

    def receive(self, now: datetime, account_sid: str, *, credential: str | None, headers: Mapping[str, str]) -> Entry:
        self.received += 1
        entry = Entry(
            sequence=self.received,
            received_at=now,
            account_sid=account_sid,
            credential=credential,
            headers={name: headers[name] for name in HEADERS_OF_INTEREST if name in headers},
        )
        self._entries.append(entry)
        return entry

    def read(self, entry: Entry, form: Form) -> None:
        entry.form = form.masked()
        entry.secret_sha256 = form.secret_sha256()
        entry.to, entry.from_ = form.get("To"), form.get("From")

    def accept(self, entry: Entry, sid: str, now: datetime) -> None:
        self.accepted += 1
        entry.accepted = True
        entry.accepted_sequence = self.accepted
        entry.accepted_at = now
        entry.sid = sid

    def answer(self, entry: Entry, status: int | None, code: int | None) -> None:
        entry.answer_status = status
        entry.answer_code = code

    def entries(self) -> Iterable[Entry]:
        return iter(self._entries)

    def clear(self) -> None:
        self._entries.clear()
        self.received = self.accepted = 0
