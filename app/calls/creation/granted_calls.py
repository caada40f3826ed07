"""Dials scheduled calls for which this process has a grant, the right to dial one call.

The calls are dialled by the same code as calls that are not scheduled.
"""

from dataclasses import dataclass, replace
from datetime import timedelta

import structlog
from pydantic import ValidationError

from app.calls.creation.dial import PreparedCall, RequeueValues
from app.calls.creation.grants.store import DialGrant
from app.calls.creation.placement import CallPlacer
from app.calls.creation.preparation import CallPreparer
from app.calls.creation.repository import update_pending_call
from app.calls.creation.store import NewCall
from app.calls.parameters import CallRequest
from app.calls.status_callbacks import StatusCallbackSettings, changed_callback_columns
from app.errors import CallgateError, InternalError, NoUsableCredentials
from app.twilio.schemas import Form

logger = structlog.stdlib.get_logger(__name__)

_MAX_RETRY_WAIT_S = 60
# Until somebody has mended the account's credentials, or the cause of an internal error.
_MAX_WAIT_FOR_FIX_S = 15 * 60


@dataclass(frozen=True, slots=True)
class GrantedCallDialer:
    """Prepares and dials scheduled calls for which this process has a grant, the right to dial one call."""

    placer: CallPlacer
    preparer: CallPreparer

    async def dial(self, grant: DialGrant, began: float) -> None:
        """Dials the call and commits the outcome. Raises no Exception.

        `began` is the value of the clock `monotonic_seconds()` before this process took the grant. Nothing is sent after the
        call's `ring_by`. If the call cannot be prepared, or Twilio refuses it, and the reason is temporary, the call waits to
        be dialled again.
        """
        call = grant.call
        prepared = PreparedCall(
            Form.from_parameters({}), began, deadline=began + grant.ring_in_s, requeue_values=_requeue_values(grant)
        )
        try:
            request = CallRequest.model_validate(call.parameters)
            account = await self.preparer.find_account(call.tenant_id, call.account_sid)
            sip_auth = await self.preparer.find_sip_auth(call.tenant_id, request.sip_credential)
            callbacks, ready = self.preparer.prepare_call(request, account, sip_auth, call.id, began)
            await self._update_callbacks(call, callbacks)
        except NoUsableCredentials as problem:
            await self._postpone_unprepared_call(grant, problem, prepared)
        except CallgateError as problem:
            await self.placer.commit_not_dialled(call, problem, prepared)
        except ValidationError as error:
            # Another version of Callgate has stored these parameters, and a worker of that version can dial the call.
            members = sorted({str(each["loc"][0]) for each in error.errors()})
            logger.error("scheduled_call_unreadable", call_id=str(call.id), members=members)
            await self._postpone_unprepared_call(grant, InternalError(), prepared)
        except Exception:
            # Nothing was sent. Without an outcome the call would stay pending until it counts as abandoned.
            logger.exception("scheduled_call_not_prepared", call_id=str(call.id))
            await self._postpone_unprepared_call(grant, InternalError(), prepared)
        else:
            prepared = replace(prepared, form=ready.form, expects_callbacks=ready.expects_callbacks)
            await self.placer.place(call, account, prepared)

    async def _update_callbacks(self, call: NewCall, callbacks: StatusCallbackSettings) -> None:
        """Updates the callback columns of the call's record, if settings have changed since the call was scheduled.

        `callbacks` has the present settings. `changed_callback_columns` says which changes count.
        """
        recorded = {name: getattr(call, name) for name in callbacks.columns}
        if changed := changed_callback_columns(recorded, callbacks, events_with_delivery=call.deliveries_written):
            async with self.placer.database.begin() as session:
                await update_pending_call(session, call, changed)
            for name, value in changed.items():
                setattr(call, name, value)

    async def _postpone_unprepared_call(self, grant: DialGrant, problem: CallgateError, prepared: PreparedCall) -> None:
        """Makes a call wait, at most 15 minutes, before it is tried again. It could not be prepared because of `problem`."""
        requeue = _requeue_values(grant, max_wait_s=_MAX_WAIT_FOR_FIX_S)
        await self.placer.commit_not_dialled(grant.call, problem, replace(prepared, requeue_values=requeue))

    def requeue_undialled_call(self, grant: DialGrant) -> None:
        """Starts a write in the background that makes a granted call wait to be dialled by any worker.

        The caller must not have dialled the call, and must not dial it later. Changes nothing if the grant was not committed.
        If the process ends before the write, the call stays pending until the worker's job `abandoned` marks it as `unknown`.
        """
        self.placer.undialled_calls.requeue_call_of_unused_grant(grant.call, _requeue_values(grant))


def _requeue_values(grant: DialGrant, *, max_wait_s: int = _MAX_RETRY_WAIT_S) -> RequeueValues:
    """Returns the values for putting the call back among the waiting calls, if it is not dialled or Twilio refuses it for now.

    The call then waits for at least 1 s. This time doubles with each earlier try, up to `max_wait_s`.
    """
    tries = grant.dial_row["tries"]
    return RequeueValues({**grant.dial_row, "tries": tries + 1}, timedelta(seconds=min(2**tries, max_wait_s)), grant.is_probe)
