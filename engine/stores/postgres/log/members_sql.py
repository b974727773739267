"""The members of a log in PostgreSQL: their tables, and the functions that change them.

Rules: the number of the members, the *view*, changes under the lock that an append takes, whenever
a row comes or goes. A lease is renewed without that lock: it changes no row but its own.
"""

from __future__ import annotations

from typing import Final

__all__ = ["MEMBERS"]

MEMBERS: Final = """
-- One row: the number of the members that there are.
CREATE TABLE {s}.membership(
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    view bigint NOT NULL
);
INSERT INTO {s}.membership(view) VALUES (0);

CREATE TABLE {s}.members(
    member integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    holder text NOT NULL,
    view_seen bigint NOT NULL,
    joined timestamptz NOT NULL DEFAULT clock_timestamp(),
    lease_until timestamptz NOT NULL
);

CREATE FUNCTION {s}.join_members_1(
    p_holder text, p_lease_seconds double precision, OUT joined integer, OUT number bigint
) LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '5s'
AS $$ BEGIN
    PERFORM pg_advisory_xact_lock({lock});
    UPDATE {s}.membership AS v SET view = v.view + 1 RETURNING v.view INTO number;
    INSERT INTO {s}.members AS m (holder, view_seen, lease_until)
        VALUES (p_holder, number, clock_timestamp() + make_interval(secs => p_lease_seconds))
        RETURNING m.member INTO joined;
END $$;
REVOKE EXECUTE ON FUNCTION {s}.join_members_1 FROM PUBLIC;

CREATE FUNCTION {s}.renew_member_1(
    p_member integer, p_view_seen bigint, p_lease_seconds double precision
) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '5s'
AS $$ BEGIN
    UPDATE {s}.members AS m SET view_seen = greatest(m.view_seen, p_view_seen),
        lease_until = clock_timestamp() + make_interval(secs => p_lease_seconds)
        WHERE m.member = p_member;
    RETURN FOUND;
END $$;
REVOKE EXECUTE ON FUNCTION {s}.renew_member_1 FROM PUBLIC;

-- Let a member go: at once, or only where its lease is over at this moment.
CREATE FUNCTION {s}.leave_members_1(p_member integer, p_at_once boolean)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '5s'
AS $$ BEGIN
    PERFORM pg_advisory_xact_lock({lock});
    DELETE FROM {s}.members AS m
        WHERE m.member = p_member AND (p_at_once OR m.lease_until < clock_timestamp());
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE {s}.membership AS v SET view = v.view + 1;
    RETURN true;
END $$;
REVOKE EXECUTE ON FUNCTION {s}.leave_members_1 FROM PUBLIC;

UPDATE {s}.about SET schema_version = 5;
"""
