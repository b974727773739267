"""Several owners of one log in PostgreSQL: their rows, and the function by which they append.

Rules: an owner appends under the view that it decided by; where the number is another one by now,
nothing is written. The end of the log is that which the function finds, since others append too.
What one owner may append twice is refused by its `line`: whoever looks what became of a batch takes
a new one under the log's lock, and what comes late has an old one. Events are inserted by the
functions of one owner, which this one calls for whoever has the shared session. One owner alone,
and several, are never there at a time.
"""

from __future__ import annotations

from typing import Final

__all__ = ["SPREAD"]

SPREAD: Final = """
-- Whether others append beside the one that has the session.
ALTER TABLE {s}.sessions ADD COLUMN shared boolean NOT NULL DEFAULT false;
-- Whether a member decides commands of the slots that are its own; and its connection's number.
ALTER TABLE {s}.members ADD COLUMN decides boolean NOT NULL DEFAULT false;
ALTER TABLE {s}.members ADD COLUMN line integer NOT NULL DEFAULT 0;

-- Give a member a new line, so that nothing comes late over the one before.
CREATE FUNCTION {s}.take_line_1(p_member integer, OUT number integer)
LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '5s'
AS $$ BEGIN
    PERFORM pg_advisory_xact_lock({lock});
    UPDATE {s}.members AS m SET line = m.line + 1 WHERE m.member = p_member
        RETURNING m.line INTO number;
END $$;
REVOKE EXECUTE ON FUNCTION {s}.take_line_1 FROM PUBLIC;

CREATE FUNCTION {s}.append_5(
    p_member integer, p_line integer, p_view bigint, p_recorded bigint,
    p_streams text[], p_versions integer[], p_types integer[], p_encodings integer[],
    p_payloads bytea[], p_metadatas bytea[], p_checksums bigint[],
    q_streams text[], q_expected integer[], q_alone boolean, p_synced boolean,
    t_numbers integer[], t_names text[], t_versions integer[], t_hashes text[],
    c_names text[], c_values text[], c_before text[], c_after text[], c_places integer[],
    OUT state text, OUT last bigint, OUT at bigint, OUT bad text[], OUT actual integer[]
) LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET lock_timeout = '5s'
AS $$
DECLARE
    own integer;
    p_after bigint;
    p_after_checksum bigint;
BEGIN
    PERFORM pg_advisory_xact_lock({lock});
    PERFORM 1 FROM {s}.members m
        WHERE m.member = p_member AND m.decides AND m.line = p_line;
    IF NOT FOUND THEN
        state := 'fenced';
        RETURN;
    END IF;
    PERFORM 1 FROM {s}.membership v WHERE v.view = p_view;
    IF NOT FOUND THEN
        state := 'moved';
        RETURN;
    END IF;
    SELECT s.session INTO own FROM {s}.sessions s WHERE s.live AND s.shared;
    IF own IS NULL THEN
        -- Nobody leads at this moment: whoever does next finds a lease that is over.
        INSERT INTO {s}.sessions(holder, lease_until, shared)
            VALUES ('nobody', clock_timestamp(), true);
        state := 'again';
        RETURN;
    END IF;
    SELECT e.position, e.checksum INTO p_after, p_after_checksum
        FROM {s}.events e ORDER BY e.position DESC LIMIT 1;
    p_after := coalesce(p_after, 0);
    p_after_checksum := coalesce(p_after_checksum, 0);
    IF cardinality(c_names) = 0 THEN
        SELECT a.state, a.last, a.at, a.bad, a.actual INTO state, last, at, bad, actual
            FROM {s}.append_1(own, p_after, p_after_checksum, p_recorded, p_streams, p_versions,
                p_types, p_encodings, p_payloads, p_metadatas, p_checksums, q_streams, q_expected,
                q_alone, p_synced, t_numbers, t_names, t_versions, t_hashes) a;
    ELSE
        SELECT a.state, a.last, a.at, a.bad, a.actual INTO state, last, at, bad, actual
            FROM {s}.append_2(own, p_after, p_after_checksum, p_recorded, p_streams, p_versions,
                p_types, p_encodings, p_payloads, p_metadatas, p_checksums, q_streams, q_expected,
                q_alone, p_synced, t_numbers, t_names, t_versions, t_hashes, c_names, c_values,
                c_before, c_after, c_places) a;
    END IF;
END $$;
REVOKE EXECUTE ON FUNCTION {s}.append_5 FROM PUBLIC;

UPDATE {s}.about SET schema_version = 6;
"""
