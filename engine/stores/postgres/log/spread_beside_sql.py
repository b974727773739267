"""The function by which several owners append what the one that leads has given, or timers.

Rules: as `append_5`, and nothing is written unless that one leads still. Timers change in the same
transaction, as `append_3` changes them; those whose commands the batch has must stand. A batch with
neither never pays for this.
"""

from __future__ import annotations

from typing import Final

__all__ = ["SPREAD_BESIDE"]

SPREAD_BESIDE: Final = """
-- p_led is the session of who leads, 0 where it is all the same.
CREATE FUNCTION {s}.append_6(
    p_member integer, p_line integer, p_view bigint, p_recorded bigint,
    p_streams text[], p_versions integer[], p_types integer[], p_encodings integer[],
    p_payloads bytea[], p_metadatas bytea[], p_checksums bigint[],
    q_streams text[], q_expected integer[], q_alone boolean, p_synced boolean,
    t_numbers integer[], t_names text[], t_versions integer[], t_hashes text[],
    c_names text[], c_values text[], c_before text[], c_after text[], c_places integer[],
    f_streams text[], f_names text[], f_positions bigint[],
    d_streams text[], d_names text[],
    w_streams text[], w_names text[], w_dues bigint[], w_places integer[], w_versions integer[],
    w_commands text[], w_payloads bytea[], w_metadatas bytea[],
    p_led integer,
    OUT state text, OUT last bigint, OUT at bigint, OUT bad text[], OUT actual integer[],
    OUT more integer
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
    SELECT s.session INTO own FROM {s}.sessions s WHERE s.live AND s.shared;
    IF p_led <> 0 THEN
        IF own IS NULL OR own <> p_led THEN
            state := 'led';
            RETURN;
        END IF;
    END IF;
    more := 0;
    IF own IS NULL OR cardinality(f_streams) + cardinality(d_streams) + cardinality(w_streams) = 0
    THEN
        SELECT a.state, a.last, a.at, a.bad, a.actual INTO state, last, at, bad, actual
            FROM {s}.append_5(p_member, p_line, p_view, p_recorded, p_streams, p_versions, p_types,
                p_encodings, p_payloads, p_metadatas, p_checksums, q_streams, q_expected, q_alone,
                p_synced, t_numbers, t_names, t_versions, t_hashes, c_names, c_values, c_before,
                c_after, c_places) a;
        RETURN;
    END IF;
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
    SELECT e.position, e.checksum INTO p_after, p_after_checksum
        FROM {s}.events e ORDER BY e.position DESC LIMIT 1;
    p_after := coalesce(p_after, 0);
    p_after_checksum := coalesce(p_after_checksum, 0);
    SELECT a.state, a.last, a.at, a.bad, a.actual, a.more INTO state, last, at, bad, actual, more
        FROM {s}.append_3(own, p_after, p_after_checksum, p_recorded, p_streams, p_versions,
            p_types, p_encodings, p_payloads, p_metadatas, p_checksums, q_streams, q_expected,
            q_alone, p_synced, t_numbers, t_names, t_versions, t_hashes, c_names, c_values,
            c_before, c_after, c_places, f_streams, f_names, f_positions, d_streams, d_names,
            w_streams, w_names, w_dues, w_places, w_versions, w_commands, w_payloads,
            w_metadatas) a;
END $$;
REVOKE EXECUTE ON FUNCTION {s}.append_6 FROM PUBLIC;

UPDATE {s}.about SET schema_version = 9;
"""
