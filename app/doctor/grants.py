"""The check of `callgate doctor` whether the database lets workers dial scheduled calls.

The right to dial one such call is a grant.

The result also warns if Postgres hides its timeline, by which a failover to another server is noticed.
"""

from collections.abc import Mapping

from app.database.engine import Database
from app.doctor.results import CheckResult
from app.scheduling.grant_halts import HIDDEN_SERVER_ID_PART, SERVER_START_TIME_PREFIX, HaltReason, read_grant_halt_state

_CHECK_NAME = "grants"
_HALT_EXPLANATIONS: Mapping[HaltReason, str] = {
    "server": ": it is another server, or another database",
    "counter": ": the database has fewer grants than a worker knows of",
}


async def check_dial_grants(database: Database) -> CheckResult:
    """Returns whether workers may dial scheduled calls, and if not, the reason and the remedy. Raises DatabaseUnavailable."""
    state = await read_grant_halt_state(database)
    if state is None:
        return CheckResult(_CHECK_NAME, "ok", "no scheduled call was granted on this database yet")
    if state.halt_reason == "operator":
        found = f"no scheduled call is dialled: `callgate queues halt` was run at {state.halted_at:%Y-%m-%d %H:%M:%S} UTC"
        return CheckResult(_CHECK_NAME, "wrong", found, "run `callgate queues release` when they may be dialled again")
    if not state.may_grant:
        why = _HALT_EXPLANATIONS.get(state.halt_reason or "server", "")
        found = f"no scheduled call is dialled, because grants after {state.seen_at:%Y-%m-%d %H:%M:%S} UTC may be lost{why}"
        return CheckResult(_CHECK_NAME, "wrong", found, "run `callgate queues release`; see docs/operations.md, Lost grants")
    system, timeline, *_ = state.server.split("/")
    if timeline.startswith(SERVER_START_TIME_PREFIX):
        found = "Postgres hides its timeline, so scheduled calls wait after each start of the server, also if nothing is lost"
        return CheckResult(
            _CHECK_NAME, "warning", found, "run `callgate queues release` then; see docs/operations.md, Lost grants"
        )
    where = "" if system == HIDDEN_SERVER_ID_PART else f"system {system}, "
    return CheckResult(_CHECK_NAME, "ok", f"are made on {where}timeline {timeline}")
