"""Lets the end of a call be written even if its redial (the new call to the same person) cannot be written."""

from collections.abc import Sequence

from alembic import op

revision: str = "0030"
down_revision: str | None = "0029"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

# As in revision 0028, within a block that catches errors that would occur again at each attempt. A temporary error, such as a
# deadlock, is raised, so that the end is written again, with its redial. Errors of a DECLARE are caught by an outer block only.
# A redial has the caller and the priority of the call that has ended, and as much time to ring as that call had.
REDIAL = """
    CREATE OR REPLACE FUNCTION callgate_redial() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
    DECLARE
        redial jsonb := NEW.parameters -> 'redial';
        now_at timestamptz := clock_timestamp();
        due timestamptz := now_at + make_interval(secs => (redial ->> 'after_s')::float8);
        not_before timestamptz := NEW.parameters ->> 'not_before';
        ring_by timestamptz := NEW.parameters ->> 'ring_by';
        last timestamptz := due + (ring_by - not_before);
        new_id uuid := callgate_uuid7(now_at);
        none uuid := '00000000-0000-0000-0000-000000000000';
        caller uuid := coalesce((SELECT caller_id FROM dial_slot WHERE call_id = NEW.id), none);
        times int := (redial ->> 'times')::int - 1;
    BEGIN
        IF NOT redial -> 'on' ? NEW.status THEN
            RETURN NULL;
        END IF;
        INSERT INTO call (id, tenant_id, account_id, account_sid, created_at, execution, pending_since, fingerprint, warnings,
            "to", "from", address_key, traceparent, status_callback, status_callback_method, status_callback_events,
            queue_id, redial_of, parameters)
        VALUES (new_id, NEW.tenant_id, NEW.account_id, NEW.account_sid, date_trunc('milliseconds', now_at), 'scheduled', now_at,
            NEW.fingerprint, NEW.warnings, NEW."to", NEW."from", NEW.address_key, NEW.traceparent, NEW.status_callback,
            NEW.status_callback_method, NEW.status_callback_events, NEW.queue_id, NEW.id,
            NEW.parameters - 'redial'
                || jsonb_build_object('not_before', callgate_rfc_3339(due), 'ring_by', callgate_rfc_3339(last))
                || CASE WHEN times > 0 THEN jsonb_build_object('redial', redial || jsonb_build_object('times', times))
                    ELSE '{}' END)
        ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
        INSERT INTO dial_turn (account_id, caller_id) VALUES (NEW.account_id, caller) ON CONFLICT DO NOTHING;
        INSERT INTO scheduled_dial (call_id, tenant_id, account_id, queue_id, caller_id, priority, not_before, ring_by, due_at,
            time_zone)
        VALUES (new_id, NEW.tenant_id, NEW.account_id, coalesce(NEW.queue_id, none), caller,
            array_position(ARRAY['urgent', 'normal', 'bulk'], NEW.parameters ->> 'priority') - 1, due, last, due,
            NEW.parameters ->> 'time_zone');
        INSERT INTO call_event (id, call_id, at, type, data) VALUES
            (gen_random_uuid(), NEW.id, clock_timestamp(), 'call.redialed', jsonb_build_object('call_id', new_id)),
            (gen_random_uuid(), new_id, clock_timestamp(), 'call.scheduled',
                jsonb_build_object('due_at', callgate_rfc_3339(due), 'redial_of', NEW.id));
        RETURN NULL;
    END;
    EXCEPTION
        WHEN data_exception OR integrity_constraint_violation OR syntax_error_or_access_rule_violation THEN
            RAISE WARNING 'call % is not dialled again: SQLSTATE %', NEW.id, SQLSTATE;
            INSERT INTO call_event (id, call_id, at, type, data) VALUES
                (gen_random_uuid(), NEW.id, clock_timestamp(), 'call.redial_failed', jsonb_build_object('sqlstate', SQLSTATE));
            RETURN NULL;
    END $$
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute(REDIAL)


def downgrade() -> None:
    """Keeps the function `callgate_redial`, because it also does all that the earlier version of the function did.

    The downgrade of revision 0028 drops it.
    """
    op.execute("SET LOCAL lock_timeout = '5s'")
