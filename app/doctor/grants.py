"""The check of `callgate doctor` whether scheduled calls are granted, and whether a fail-over would be noticed."""

from app.database.engine import Database
from app.doctor.settings import CheckResult
from app.scheduling.guard import HIDDEN, read_guard

_CHECK = "grants"


async def check_grants(database: Database) -> CheckResult:
    """Raises DatabaseUnavailable."""
    guard = await read_guard(database)
    if guard is None:
        return CheckResult(_CHECK, "ok", "no scheduled call was granted on this database yet")
    if not guard.may_grant:
        found = f"no scheduled call is dialled, because grants after {guard.seen_at:%Y-%m-%d %H:%M:%S} UTC may be lost"
        return CheckResult(_CHECK, "wrong", found, "run `callgate queues release`; see docs/operations.md, Lost grants")
    system, timeline, *_ = guard.server.split("/")
    hidden = [name for name, value in (("system identifier", system), ("timeline", timeline)) if value == HIDDEN]
    if hidden:
        found = f"Postgres hides its {' and '.join(hidden)}: a fail-over that loses grants is not noticed"
        return CheckResult(_CHECK, "warning", found, "make a standby synchronous, so that a fail-over loses nothing")
    return CheckResult(_CHECK, "ok", f"are made on system {system}, timeline {timeline}")
