"""SQL fragments of the check whether workers may take grants on this Postgres server (app.scheduling.grant_halts).

A grant is a worker's right to dial one scheduled call.
"""

from typing import Final

# Contains the table's oid, which differs after a restore into the same database.
CURRENT_SERVER_SQL: Final = "(callgate_server() || '/' || 'grant_guard'::regclass::oid)"
MAY_TAKE_GRANTS_SQL: Final = f"(SELECT halted_at IS NULL AND server = {CURRENT_SERVER_SQL} FROM grant_guard WHERE id = 1)"  # noqa: S608
"""SQL for whether workers may take grants now. Its value is null if no server was recorded yet."""
RELEASED_AT_MICROSECONDS_SQL: Final = (
    "coalesce((SELECT extract(epoch FROM released_at) * 1000000 FROM grant_guard WHERE id = 1), 0)::bigint"
)
"""SQL for the time at which grants were last released (allowed again), in microseconds since 1970; 0 if they never were."""
