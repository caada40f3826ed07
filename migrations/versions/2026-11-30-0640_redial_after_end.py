"""Counts the delay of a redial (a new call to the same person) from the end of the first call, even if that is known late."""

from collections.abc import Sequence

from alembic import op

revision: str = "0038"
down_revision: str | None = "0037"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

# As in revision 0036, but `due` follows from Twilio's end time, which is null if a callback reported the end. An end in the
# future, by a clock that differs, counts as now. Nothing is scheduled if the time to ring has passed. The record has `due`
# even if that is past, so that a redial of the redial has as long to ring.
REDIAL = """
    CREATE OR REPLACE FUNCTION callgate_redial() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
    DECLARE
        redial jsonb := NEW.parameters -> 'redial';
        now_at timestamptz := clock_timestamp();
        due timestamptz := least(NEW.end_time, now_at) + make_interval(secs => (redial ->> 'after_s')::float8);
        not_before timestamptz := NEW.parameters ->> 'not_before';
        ring_by timestamptz := NEW.parameters ->> 'ring_by';
        last timestamptz := due + (ring_by - not_before);
        earliest timestamptz := greatest(due, now_at);
        new_id uuid := callgate_uuid7(now_at);
        none uuid := '00000000-0000-0000-0000-000000000000';
        caller uuid := coalesce((SELECT caller_id FROM dial_slot WHERE call_id = NEW.id), none);
        times int := (redial ->> 'times')::int - 1;
    BEGIN
        IF NOT redial -> 'on' ? NEW.status
            OR EXISTS (SELECT FROM wanted_update WHERE call_id = NEW.id AND attempt = NEW.attempt)
            OR EXISTS (SELECT FROM call_event WHERE call_id = NEW.id AND type = 'call.updated' AND data ? 'status')
        THEN
            RETURN NULL;
        END IF;
        IF last <= now_at THEN
            INSERT INTO call_event (id, call_id, at, type, data) VALUES
                (gen_random_uuid(), NEW.id, clock_timestamp(), 'call.redial_expired',
                    jsonb_build_object('ring_by', callgate_rfc_3339(last)));
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
        INSERT INTO scheduled_dial (call_id, tenant_id, account_id, queue_id, caller_id, priority, not_before, ring_by, due_at,
            time_zone)
        VALUES (new_id, NEW.tenant_id, NEW.account_id, coalesce(NEW.queue_id, none), caller,
            array_position(ARRAY['urgent', 'normal', 'bulk'], NEW.parameters ->> 'priority') - 1, earliest, last, earliest,
            NEW.parameters ->> 'time_zone');
        INSERT INTO dial_turn (account_id, caller_id) VALUES (NEW.account_id, caller) ON CONFLICT DO NOTHING;
        INSERT INTO call_event (id, call_id, at, type, data) VALUES
            (gen_random_uuid(), NEW.id, clock_timestamp(), 'call.redialed', jsonb_build_object('call_id', new_id)),
            (gen_random_uuid(), new_id, clock_timestamp(), 'call.scheduled',
                jsonb_build_object('due_at', callgate_rfc_3339(earliest), 'redial_of', NEW.id));
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
    """Keeps the function `callgate_redial`, because the earlier version of Callgate works with it, too.

    The downgrade of revision 0028 drops it.
    """
    op.execute("SET LOCAL lock_timeout = '5s'")
