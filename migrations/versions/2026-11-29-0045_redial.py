"""Adds a trigger that schedules a redial: a new call to someone who was busy or did not answer.

The trigger runs in the transaction that writes the end of the first call.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0028"
down_revision: str | None = "0027"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

# The first 48 bits are the time in milliseconds (RFC 9562 §5.7). The rest is that of a random UUID, whose version is set to 7.
UUID7 = """
    CREATE FUNCTION callgate_uuid7(at timestamptz) RETURNS uuid LANGUAGE sql VOLATILE AS $$
        SELECT encode(set_byte(
            overlay(uuid_send(gen_random_uuid()) PLACING
                substring(int8send(floor(extract(epoch FROM at) * 1000)::bigint) FROM 3) FROM 1 FOR 6),
            6, (get_byte(uuid_send(gen_random_uuid()), 0) & 15) | 112
        ), 'hex')::uuid
    $$
"""
# A redial has the caller and the priority of the call that has ended, and as much time to ring as that call had.
REDIAL = """
    CREATE FUNCTION callgate_redial() RETURNS trigger LANGUAGE plpgsql AS $$
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
    END $$
"""
RFC_3339 = """
    CREATE FUNCTION callgate_rfc_3339(at timestamptz) RETURNS text LANGUAGE sql STABLE AS $$
        SELECT to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
    $$
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    for function in (UUID7, RFC_3339, REDIAL):
        op.execute(function)
    op.execute("""
        CREATE TRIGGER redial AFTER UPDATE OF status ON call FOR EACH ROW
        WHEN (NEW.status IS DISTINCT FROM OLD.status AND NEW.status IN ('busy', 'no-answer') AND NEW.parameters ? 'redial')
        EXECUTE FUNCTION callgate_redial()
    """)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("DROP TRIGGER redial ON call")
    op.execute("DROP FUNCTION callgate_redial()")
    op.execute("DROP FUNCTION callgate_rfc_3339(timestamptz)")
    op.execute("DROP FUNCTION callgate_uuid7(timestamptz)")
