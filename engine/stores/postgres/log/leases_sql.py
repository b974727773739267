"""How long each lease was as it was given, so that one is known that a clock has made longer.

Rules: where the clock of the server goes back, the leases that there are end later by as much, also
those of processes that died. A lease that ends later than its length from now on is such a one: it
begins anew at this moment. Whoever lives renews it in time, since it was given no longer.
"""

from __future__ import annotations

from typing import Final

__all__ = ["LEASES", "seconds_left"]

LEASES: Final = """
-- Of rows that are older than this nobody knows it.
ALTER TABLE {s}.sessions ADD COLUMN lease_seconds double precision;
ALTER TABLE {s}.members ADD COLUMN lease_seconds double precision;

CREATE FUNCTION {s}.note_lease() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    new.lease_seconds := extract(epoch FROM new.lease_until - clock_timestamp());
    RETURN new;
END $$;
CREATE TRIGGER sessions_note_leases BEFORE INSERT ON {s}.sessions
    FOR EACH ROW EXECUTE FUNCTION {s}.note_lease();
CREATE TRIGGER members_note_leases BEFORE INSERT ON {s}.members
    FOR EACH ROW EXECUTE FUNCTION {s}.note_lease();
REVOKE EXECUTE ON FUNCTION {s}.note_lease FROM PUBLIC;

CREATE FUNCTION {s}.mend_leases_1(p_slack_seconds double precision)
RETURNS void LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '5s'
AS $$
    UPDATE {s}.sessions SET lease_until = clock_timestamp() + make_interval(secs => lease_seconds)
        WHERE live AND extract(epoch FROM lease_until - clock_timestamp())
            > lease_seconds + p_slack_seconds;
    UPDATE {s}.members SET lease_until = clock_timestamp() + make_interval(secs => lease_seconds)
        WHERE extract(epoch FROM lease_until - clock_timestamp()) > lease_seconds + p_slack_seconds;
$$;
REVOKE EXECUTE ON FUNCTION {s}.mend_leases_1 FROM PUBLIC;

UPDATE {s}.about SET schema_version = 10;
"""


def seconds_left(row: str) -> str:
    """Give the SQL of what is left of a row's lease; $1 is how long a lease is.

    Nobody could renew anything before the server started. A clock that is behind its start, as it
    went back, tells nothing of that.
    """
    return (
        f"greatest(extract(epoch FROM {row}.lease_until - clock_timestamp()), $1 - CASE "
        "WHEN clock_timestamp() < pg_catalog.pg_postmaster_start_time() THEN $1 ELSE "
        "extract(epoch FROM clock_timestamp() - pg_catalog.pg_postmaster_start_time()) END"
        ")::double precision"
    )
