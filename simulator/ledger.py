"""The ledger: the requests to create a call (creations) that arrived, and whether each became a call.

Tests count its entries to prove that a request to Callgate creates at most one call. A creation is recorded as received before
it is validated, and as accepted when its call gets a sid.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from simulator.form import Form

RECORDED_HEADERS = (
    "accept",
    "content-type",
    "idempotency-key",
    "i-twilio-idempotency-token",
    "traceparent",
    "user-agent",
    "x-request-id",
    "x-twilio-client",
)


class LedgerEntry(BaseModel):
    """A request to create a call that arrived, and its answer. An entry of `GET /_simulator/ledger`."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    sequence: int = Field(description="Number of the creation since the start or the last reset, from 1.")
    received_at: datetime
    account_sid: str = Field(description="The account sid of the path, whether or not the account exists.")
    credential: str | None = Field(description="The user name of the Authorization header: an AC… or SK… sid.")
    headers: dict[str, str] = Field(description=f"These headers, if present: {', '.join(RECORDED_HEADERS)}.")
    form: dict[str, list[str]] | None = Field(
        None, description="All fields, with secrets masked. Null if the body did not arrive completely."
    )
    secret_sha256: dict[str, str] = Field(
        default_factory=dict,
        description="SHA-256, in hex, of each secret parameter that arrived.",
    )
    to: str | None = None
    from_: str | None = Field(None, alias="from")
    fault: str | None = Field(None, description="The fault of this creation.")
    accepted: bool = Field(False, description="Whether a call was created, that is, whether a phone rings.")
    accepted_sequence: int | None = Field(None, description="Number of the call among the accepted creations, from 1.")
    accepted_at: datetime | None = None
    sid: str | None = None
    answer_status: int | None = Field(
        None,
        description="The HTTP status of the answer; null if none was sent. It may not have reached the client.",
    )
    answer_code: int | None = Field(None, description="Twilio's error code in that answer.")


class Ledger:
    """The newest `max_entries` requests to create a call.

    `received` counts all such requests, and `accepted` those that created a call. Both include requests whose entry was
    deleted.
    """

    def __init__(self, max_entries: int) -> None:
        self._entries: deque[LedgerEntry] = deque(maxlen=max_entries)
        self.received = 0
        self.accepted = 0

    @property
    def dropped_count(self) -> int:
        return self.received - len(self._entries)

    def record_receipt(
        self, now: datetime, account_sid: str, *, credential: str | None, headers: Mapping[str, str]
    ) -> LedgerEntry:
        self.received += 1
        entry = LedgerEntry(
            sequence=self.received,
            received_at=now,
            account_sid=account_sid,
            credential=credential,
            headers={name: headers[name] for name in RECORDED_HEADERS if name in headers},
        )
        self._entries.append(entry)
        return entry

    def record_form(self, entry: LedgerEntry, form: Form) -> None:
        entry.form = form.masked()
        entry.secret_sha256 = form.secret_sha256()
        entry.to, entry.from_ = form.get("To"), form.get("From")

    def record_acceptance(self, entry: LedgerEntry, sid: str, now: datetime) -> None:
        self.accepted += 1
        entry.accepted = True
        entry.accepted_sequence = self.accepted
        entry.accepted_at = now
        entry.sid = sid

    def record_answer(self, entry: LedgerEntry, status: int | None, code: int | None) -> None:
        entry.answer_status = status
        entry.answer_code = code

    def entries(self) -> Iterable[LedgerEntry]:
        return iter(self._entries)

    def clear(self) -> None:
        self._entries.clear()
        self.received = self.accepted = 0
