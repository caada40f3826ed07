"""Receives a status callback: verifies it, updates the call, and stores the delivery for the tenant.

Does not import FastAPI.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import structlog

from app.callbacks.effects import CallbackResult, StatusCallback, apply_callback, update_callback_sequence
from app.callbacks.fields import FormFields
from app.callbacks.signature import has_signature_format, signing_auth_token
from app.callbacks.untagged import UntaggedCallAccounts
from app.calls.callback_urls import CallbackUrls, callback_tag_in_query
from app.calls.outbox import delivery_for_status
from app.calls.refresh_times import refresh_time_after_callback
from app.calls.settlement import Settlement
from app.calls.store import CallState, ChangedCall, SidTaken, read_calls, record_ids_by_sid, write_changed_calls
from app.database.batcher import LOCKED, Batcher, RowLocked
from app.database.engine import Database
from app.errors import CallbackForged, CallNotFound, DatabaseUnavailable, MalformedBody
from app.observability import Metrics
from app.observability.context import bind_log_fields
from app.observability.tracing import link_to_cause
from app.tenants.directory import TenantDirectory
from app.twilio.schemas import OnCredentialUse, to_storable_json

logger = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ReceivedCallback:
    """A request to a callback URL, not yet verified to be from Twilio. `path_and_query` includes the query.

    `fields` are the callback's fields: from the body of a POST, or from the query of a GET. `body_fields` are the fields in the
    body only, because Twilio signs these fields and the URL.
    """

    call_id: UUID
    account_id: UUID
    path_and_query: str
    fields: FormFields
    body_fields: FormFields
    signature: str


@dataclass(frozen=True, slots=True)
class _AppliedCallback:
    """The result of applying a callback, and values of the call for the log and the trace."""

    result: CallbackResult
    traceparent: str | None
    tenant_id: str
    call_sid: str | None


_Rejection = CallNotFound | MalformedBody


class CallbackService:
    """Verifies Twilio's status callbacks and applies them to calls. The cheapest checks come first.

    The order of the checks: the format of the signature, the tag that Callgate put into the callback URL, the signature itself.
    """

    def __init__(
        self,
        *,
        database: Database,
        directory: TenantDirectory,
        settlement: Settlement,
        metrics: Metrics,
        public_url: str | None,
        urls: CallbackUrls | None,
        untagged: UntaggedCallAccounts,
        on_use: OnCredentialUse,
    ) -> None:
        self._database = database
        self._directory = directory
        self._settlement = settlement
        self._metrics = metrics
        self._public_url = public_url
        self._urls = urls
        self._untagged = untagged
        self._on_use = on_use
        self._batcher: Batcher[ReceivedCallback, _AppliedCallback | _Rejection] = Batcher(self._apply_batch, max_batch=50)

    async def find_signing_account(self, call_id: UUID, query: str, signature: str) -> UUID:
        """Returns the id of the account whose auth tokens sign the callbacks of this call.

        The id is in the tag, a part of the query that Callgate put into the callback URL. Raises CallbackForged for a malformed
        signature or an invalid tag. The URL of a very old call has no tag; its account is read from Postgres
        (`UntaggedCallAccounts`). For any other call, a missing tag also raises CallbackForged.
        """
        if not has_signature_format(signature):
            raise self._count_and_make_forged_error("unsigned")
        tag = callback_tag_in_query(query)
        if tag is None:
            account_id = await self._untagged.account_of_untagged_call(call_id)
        else:
            account_id = self._urls.account_id_in_valid_tag(call_id, tag) if self._urls else None
        if account_id is None:
            raise self._count_and_make_forged_error("untagged")
        return account_id

    async def verify_and_apply(self, received: ReceivedCallback) -> None:
        """Verifies the signature of a callback and applies the callback.

        `received.account_id` is the result of `find_signing_account`. Callbacks that arrive at the same time share one
        transaction. Raises CallbackForged if no auth token of the account has signed the callback. Raises CallNotFound if the
        account has no such call, and MalformedBody if the CallSid is invalid or the AccountSid is that of another account.
        After these errors nothing has changed.
        """
        tokens = await self._directory.auth_tokens(received.account_id)
        token = None
        if self._public_url is not None:
            token = signing_auth_token(
                self._public_url + received.path_and_query, received.body_fields, received.signature, tokens
            )
        if token is None:
            logger.warning("callback_forged", call_id=str(received.call_id))
            raise self._count_and_make_forged_error("forged")
        self._on_use(token)
        applied = await self._batcher.submit(received)
        if not isinstance(applied, _AppliedCallback):
            self._metrics.callbacks.received.labels(_RESULT_LABELS[type(applied)]).inc()
            raise applied
        link_to_cause(applied.traceparent)
        bind_log_fields(tenant_id=applied.tenant_id, call_id=str(received.call_id), call_sid=applied.call_sid)
        self._metrics.callbacks.received.labels(applied.result).inc()

    def _count_and_make_forged_error(self, result: str) -> CallbackForged:
        """Counts the refused callback under the metric label `result`. Returns the error to raise."""
        self._metrics.callbacks.received.labels(result).inc()
        bind_log_fields(callback=result)
        return CallbackForged()

    async def _apply_batch(self, batch: Sequence[ReceivedCallback]) -> list[_AppliedCallback | _Rejection | RowLocked]:
        """Applies all callbacks of a batch with two SQL statements: one reads the calls, one writes them.

        If a callback has another CallSid than its call's record, a third statement finds the record that has this CallSid.
        Returns one result for each callback. The result is an error if the callback was refused. It is LOCKED if the callback
        must be applied again, because another transaction has changed the call meanwhile.
        """
        calls = await read_calls(self._database, {received.call_id for received in batch})
        callbacks = [_parse_for_call(received, calls.get(received.call_id)) for received in batch]
        unbound = {
            callback.resource.sid
            for received, callback in zip(batch, callbacks, strict=True)
            if isinstance(callback, StatusCallback) and calls[received.call_id].sid != callback.resource.sid
        }
        taken = await record_ids_by_sid(self._database, unbound)
        changed = {call_id: ChangedCall(call) for call_id, call in calls.items()}
        settled = [call for call in calls.values() if call.execution != "started"]
        results = [
            callback if isinstance(callback, _Rejection) else self._apply_to_record(changed[received.call_id], callback, taken)
            for received, callback in zip(batch, callbacks, strict=True)
        ]
        try:
            written = await write_changed_calls(self._database, [each for each in changed.values() if each.events])
        except SidTaken:
            if len(batch) > 1:
                raise  # the batcher finds the callback in question
            return [LOCKED]  # another record was bound in between: it is found when this callback is read again
        except DatabaseUnavailable as error:
            if error.commit_in_doubt:
                self._count_and_log_critical_events(changed.values())
            raise
        for call in settled:
            if call.id in written and call.execution == "started":
                self._settlement.count_outcome(call)
        self._count_and_log_critical_events(changed[call_id] for call_id in written)
        return [
            LOCKED
            if isinstance(result, _AppliedCallback) and changed[received.call_id].events and received.call_id not in written
            else result
            for received, result in zip(batch, results, strict=True)
        ]

    def _count_and_log_critical_events(self, written: Iterable[ChangedCall]) -> None:
        for each in written:
            self._settlement.count_and_log_critical_events(each.call, each.events)

    def _apply_to_record(
        self, changed: ChangedCall, callback: StatusCallback, record_ids_of_sids: Mapping[str, UUID]
    ) -> _AppliedCallback:
        """Applies a callback to its call's record in memory, and adds the events and deliveries to write to `changed`.

        `record_ids_of_sids` maps CallSids to the ids of the records that have them.
        """
        call, resource = changed.call, callback.resource
        effect = apply_callback(call, callback)
        reported_by = len(changed.events)
        changed.events += effect.events
        if effect.result != "duplicate":
            if call.sid != resource.sid:
                # Another transaction may have bound this record since. Then nothing is written, and the record is read again.
                is_taken = record_ids_of_sids.get(resource.sid, call.id) != call.id
                bound = self._settlement.bind_twilio_call_in_memory(
                    call, resource, by="callback", data={}, now=call.now, is_taken=is_taken
                )
                changed.events += bound.events
                if bound.delivery is not None:
                    changed.deliveries.append(bound.delivery)
                if call.sid == resource.sid:
                    update_callback_sequence(call, callback)
            if call.sid == resource.sid and (
                delivery := delivery_for_status(call, status=resource.status, sequence=callback.sequence)
            ):
                changed.deliveries.append(delivery)
                changed.event_ids[reported_by] = delivery["id"]
            if call.sid == resource.sid and effect.result == "taken":
                call.refresh_at = refresh_time_after_callback(call, now=call.now, interval=self._settlement.refresh_interval)
        return _AppliedCallback(effect.result, call.traceparent, call.tenant_id, call.sid)


def _parse_for_call(received: ReceivedCallback, call: CallState | None) -> StatusCallback | _Rejection:
    """Returns the parsed callback, or the error to raise.

    The error is CallNotFound if the account has no such call, and MalformedBody if the callback has no valid CallSid or the
    AccountSid of another account.
    """
    if call is None or call.account_id != received.account_id:
        return CallNotFound()
    callback = StatusCallback.from_fields(to_storable_json(received.fields.last_values()), account_sid=call.account_sid)
    return callback or MalformedBody("The callback has no CallSid, or belongs to another account.")


_RESULT_LABELS = {CallNotFound: "unknown_call", MalformedBody: "malformed"}
