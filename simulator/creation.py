"""Handles requests to create a call, with the faults that a test has asked for.

The step `_create_and_record_call` creates the call. A fault acts before this step (it refuses or delays the request), within it
(it changes the new call) or after it (it changes the answer).
"""

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from simulator import resource
from simulator.accounts import Account, basic_credentials
from simulator.broken_answers import NoAnswer
from simulator.errors import TwilioError
from simulator.faults import NO_FAULT, Fault, FaultContext
from simulator.form import Form, read_form
from simulator.ledger import LedgerEntry
from simulator.negotiation import require_json
from simulator.parameters import CallParameters, validate_creation
from simulator.state import SimulatorState
from simulator.store import Call


class CallCreation:
    def __init__(self, state: SimulatorState) -> None:
        self._state = state

    async def handle_creation(self, request: Request, account_sid: str) -> Response:
        entry = self._record_receipt(request, account_sid)
        try:
            form = await self._read_and_record_form(request, entry)
            account = self._authenticate(request, account_sid)
            parameters = validate_creation(form)
            nth = self._state.count_creation(parameters.to)
            fault = self._choose_fault(request, entry, parameters, nth)
            await fault.before_accept(parameters.to)
            call = self._create_and_record_call(entry, account, parameters, nth, fault)
            return await self._make_and_record_answer(entry, call, fault)
        except TwilioError as error:
            return self._record_and_answer_error(entry, error)
        except ClientDisconnect:
            # The client disconnected before the whole body had arrived: the ledger's entry stays without an answer.
            return Response(status_code=400)

    def _record_receipt(self, request: Request, account_sid: str) -> LedgerEntry:
        credentials = basic_credentials(request.headers.get("authorization"))
        return self._state.ledger.record_receipt(
            self._state.now(),
            account_sid,
            credential=credentials[0] if credentials else None,
            headers=request.headers,
        )

    async def _read_and_record_form(self, request: Request, entry: LedgerEntry) -> Form:
        form = await read_form(request)
        self._state.ledger.record_form(entry, form)
        return form

    def _authenticate(self, request: Request, account_sid: str) -> Account:
        account = self._state.accounts.authenticate(account_sid, request.headers.get("authorization"))
        require_json(request)
        return account

    def _choose_fault(self, request: Request, entry: LedgerEntry, parameters: CallParameters, nth: int) -> Fault:
        chosen = self._state.faults.choose(request.headers, parameters.to, nth)
        if chosen is None:
            return NO_FAULT
        entry.fault, fault = chosen
        return fault

    def _create_and_record_call(
        self, entry: LedgerEntry, account: Account, parameters: CallParameters, nth: int, fault: Fault
    ) -> Call:
        """Creates the call, records it in the ledger, applies the fault to it, and schedules its callbacks.

        `nth` is the number of the request among those with the same `To`. There is no `await` in between, so other tasks never
        see the call without its entry in the ledger.
        """
        now = self._state.now()
        call = self._state.create_call(account.sid, parameters, now, nth_to_destination=nth)
        self._state.ledger.record_acceptance(entry, call.sid, now)
        fault.change_created_call(call, now)
        self._state.callbacks.schedule_callbacks(call)
        return call

    async def _make_and_record_answer(self, entry: LedgerEntry, call: Call, fault: Fault) -> Response:
        context = FaultContext(self._state.callbacks, self._state.held_connections)
        answer = await fault.answer(call, JSONResponse(resource.call_resource_at_creation(call), 201), context)
        self._state.ledger.record_answer(entry, None if isinstance(answer, NoAnswer) else answer.status_code, None)
        return answer

    def _record_and_answer_error(self, entry: LedgerEntry, error: TwilioError) -> Response:
        """Records the error in the ledger and returns it as the answer.

        The error is a refusal, or comes from a fault that creates the call and answers with an error.
        """
        self._state.ledger.record_answer(entry, error.status, error.code)
        return error.response()
