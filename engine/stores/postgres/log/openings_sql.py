"""How a log in PostgreSQL is opened: by an engine alone, one that leads, or an owner of a part.

Rules: all of it is done under the lock that an append takes. Who finds that another one has the log
keeps no renewal of a lease waiting: the first look takes no lock of a row. Only where a lease is
over a renewal of it that is on its way is waited for, and the look is done again. Who changes
nothing waits for no disk and no standby: whatever he has locked is free at once. The lease of who
leads is none of the business of those that join him.
"""

from __future__ import annotations

from typing import Final

__all__ = ["OPENINGS"]

_FREE: Final = "PERFORM set_config('synchronous_commit', 'off', true);"
# Twice: without locks of rows, and behind them.
_HELD: Final = """
    IF NOT p_shared THEN
        SELECT m.member, m.holder, m.joined, m.lease_until,
                extract(epoch FROM m.lease_until - clock_timestamp())
            INTO session, holder, opened, lease_until, seconds_left
            FROM {s}.members m WHERE m.decides ORDER BY m.lease_until DESC LIMIT 1;
        IF seconds_left > 0 THEN
            {free}
            RETURN;
        END IF;
    END IF;
    SELECT s.session, s.holder, s.opened, s.lease_until,
            extract(epoch FROM s.lease_until - clock_timestamp())
        INTO session, holder, opened, lease_until, seconds_left
        FROM {s}.sessions s WHERE s.live;
    IF seconds_left > 0 THEN
        {free}
        RETURN;
    END IF;
"""
_OTHER: Final = """
    SELECT s.holder INTO other FROM {s}.sessions s
        WHERE s.live AND NOT s.shared AND s.lease_until > clock_timestamp();
    IF other IS NOT NULL THEN
        {free}
        RETURN;
    END IF;
"""
_FUNCTIONS: Final = """
-- As begin_session_1; nobody has the log alone while members decide whose leases run. A renewal
-- that is on its way is waited for first: who asked for it is told that he has the log.
CREATE OR REPLACE FUNCTION {s}.begin_session_2(
    p_holder text, p_lease_seconds double precision, p_shared boolean,
    OUT session integer, OUT holder text, OUT opened timestamptz, OUT lease_until timestamptz,
    OUT seconds_left double precision
) LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '5s'
AS $$
#variable_conflict use_column
BEGIN
    PERFORM pg_advisory_xact_lock({lock});{held}
    IF NOT p_shared THEN
        PERFORM 1 FROM {s}.members m WHERE m.decides FOR UPDATE;
    END IF;
    PERFORM 1 FROM {s}.sessions s WHERE s.live FOR UPDATE;{held}
    IF NOT p_shared THEN
        DELETE FROM {s}.members AS m WHERE m.decides;
        IF FOUND THEN
            UPDATE {s}.membership AS v SET view = v.view + 1;
        END IF;
    END IF;
    UPDATE {s}.sessions SET live = false WHERE live;
    DELETE FROM {s}.sessions s WHERE s.opened < clock_timestamp() - interval '30 days';
    INSERT INTO {s}.sessions(holder, lease_until, shared)
        VALUES (p_holder, clock_timestamp() + make_interval(secs => p_lease_seconds), p_shared)
        RETURNING sessions.session INTO session;
    holder := NULL;
END $$;
REVOKE EXECUTE ON FUNCTION {s}.begin_session_2 FROM PUBLIC;

-- As join_members_1, for one that decides; `other` is who has the log alone.
CREATE OR REPLACE FUNCTION {s}.join_members_2(
    p_holder text, p_lease_seconds double precision,
    OUT joined integer, OUT number bigint, OUT other text
) LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '5s'
AS $$ BEGIN
    PERFORM pg_advisory_xact_lock({lock});{other}
    PERFORM 1 FROM {s}.sessions s WHERE s.live AND NOT s.shared FOR UPDATE;{other}
    UPDATE {s}.sessions SET live = false WHERE live AND NOT shared;
    UPDATE {s}.membership AS v SET view = v.view + 1 RETURNING v.view INTO number;
    INSERT INTO {s}.members AS m (holder, view_seen, lease_until, decides)
        VALUES (p_holder, number, clock_timestamp() + make_interval(secs => p_lease_seconds), true)
        RETURNING m.member INTO joined;
END $$;
REVOKE EXECUTE ON FUNCTION {s}.join_members_2 FROM PUBLIC;

UPDATE {s}.about SET schema_version = 11;
"""
OPENINGS: Final = (
    _FUNCTIONS.replace("{held}", _HELD).replace("{other}", _OTHER).replace("{free}", _FREE)
)
