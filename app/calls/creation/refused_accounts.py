"""Slows the dialling of an account down while Twilio refuses its scheduled calls for temporary reasons.

After such a refusal, the account's calls wait, because Twilio would most probably refuse them, too. After a while, a single
call is dialled: the probe. If Twilio refuses the probe, another one follows after a longer time. Otherwise the account dials as
before. Other accounts are not affected.
"""

from datetime import timedelta

import structlog

from app.calls.creation.dial import NotStartedOutcome, Outcome, RequeueValues
from app.calls.creation.store import NewCall
from app.calls.models import Call
from app.calls.stored_problem import allows_scheduled_retry
from app.database.engine import Database
from app.errors import UpstreamUnreachable
from app.scheduling.refused_accounts import allow_next_probe, end_account_slowdown, slow_account_down

logger = structlog.stdlib.get_logger(__name__)

_DEFAULT_REFUSAL_WAIT_S = 1


async def slow_down_or_resume_account(
    database: Database, call: Call | NewCall, outcome: Outcome, requeue: RequeueValues
) -> None:
    """Slows the account down if Twilio refused `call`, which is scheduled, for a temporary reason.

    The calls of a slowed account wait, except a single one that is dialled after a while: the probe. If `call` was the probe
    (`requeue.is_probe`), other outcomes have these effects:

    - Twilio has answered otherwise, or the outcome is unknown: the account dials as before.
    - No request to Twilio was attempted: another probe may be dialled at once.
    - Twilio could not be reached, or not every credential could be tried: another probe is dialled after a wait.
    """
    if not isinstance(outcome, NotStartedOutcome):
        if requeue.is_probe:
            await end_account_slowdown(database, call.account_id)
        return
    if not outcome.attempts:  # the call could not be prepared, or no time was left to send a request
        if requeue.is_probe:
            await allow_next_probe(database, call.account_id)
        return
    # After the refusal of one credential, Twilio may accept the next one, which could not be tried.
    is_answered = outcome.attempts[-1].status is not None and not isinstance(outcome.problem, UpstreamUnreachable)
    if is_answered and allows_scheduled_retry(outcome.problem):
        wait = timedelta(seconds=outcome.problem.retry_after_s or _DEFAULT_REFUSAL_WAIT_S)
        if await slow_account_down(database, call.account_id, wait=wait, was_probe=requeue.is_probe):
            fields = {"account_id": str(call.account_id), "problem": outcome.problem.slug, "wait_s": wait.total_seconds()}
            logger.warning("dialling_slowed_down", **fields)
    elif is_answered and requeue.is_probe:
        await end_account_slowdown(database, call.account_id)
    elif requeue.is_probe:
        await slow_account_down(database, call.account_id, wait=timedelta(0), was_probe=True)
