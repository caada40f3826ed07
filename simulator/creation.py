"""CreateCall, as a list of steps.

Until `accept` nobody has been rung, after it somebody has: whatever is to make a creation go wrong on purpose
belongs on one side or the other of that step.
"""

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from simulator import resource
from simulator.accounts import Account, basic_credentials
from simulator.errors import TwilioError
from simulator.form import Form, read_form
from simulator.ledger import Entry
from simulator.negotiation import require_json
from simulator.parameters import CallParameters, validate_creation
from simulator.state import Call, State


class CallCreation:
    def __init__(self, state: State) -> None:
        self._state = state

    async def handle(self, request: Request, account_sid: str) -> Response:
        entry = self._receive(request, account_sid)
        try:
            form = await self._read(request, entry)
            account = self._authenticate(request, account_sid)
            parameters = validate_creation(form)
            call = self._accept(entry, account, parameters)
            return self._answer(entry, call)
        except TwilioError as error:
            return self._refuse(entry, error)
        except ClientDisconnect:
            # The caller hung up before the body was whole: the entry stays without an answer.
            return Response(status_code=400)

    def _receive(self, request: Request, account_sid: str) -> Entry:
        credentials = basic_credentials(request.headers.get("authorization"))
        return self._state.ledger.receive(
            self._state.now(),
            account_sid,
            credential=credentials[0] if credentials else None,
            headers=request.headers,
        )

    async def _read(self, request: Request, entry: Entry) -> Form:
        form = await read_form(request)
        self._state.ledger.read(entry, form)
        return form

    def _authenticate(self, request: Request, account_sid: str) -> Account:
        account = self._state.accounts.authenticate(account_sid, request.headers.get("authorization"))
        require_json(request)
        return account

    def _accept(self, entry: Entry, account: Account, parameters: CallParameters) -> Call:
        """No await in here: the call and its place in the ledger come into being together."""
        now = self._state.now()
        call = self._state.create_call(account.sid, parameters, now)
        self._state.ledger.accept(entry, call.sid, now)
        return call

    def _answer(self, entry: Entry, call: Call) -> Response:
        self._state.ledger.answer(entry, 201, None)
        return JSONResponse(resource.created(call), 201)

    def _refuse(self, entry: Entry, error: TwilioError) -> Response:
        self._state.ledger.answer(entry, error.status, error.code)
        return error.response()
