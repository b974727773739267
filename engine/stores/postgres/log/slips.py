"""Rows of a log in PostgreSQL that no event's checksum proves, kept from slips of people.

Rules: claims, timers and the index of tags are changed by the log's own functions, which are told
by the stack of calls, and in a schema that a log is being copied into. Whoever may drop a trigger
can change them all the same: this is against slips, and no lock.
"""

from __future__ import annotations

from typing import Final

__all__ = ["SLIPS"]

SLIPS: Final = """
-- What decisions look into, and what is to be done later: no event shows by its checksum that a row
-- is gone. Functions of the log change them, and a copy that is being made.
CREATE FUNCTION {s}.refuse_slip() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    called text;
BEGIN
    GET DIAGNOSTICS called = PG_CONTEXT;
    IF called !~ '[.](append|settle_timers|begin_index|add_tags)_[0-9]+[(]'
        AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_class c
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = '{s}' AND c.relname = 'copying')
    THEN
        RAISE EXCEPTION 'rows of % are changed by functions of the log only', TG_TABLE_NAME
            USING ERRCODE = 'integrity_constraint_violation',
            HINT = 'claims and timers are their aggregates'': send those a command. The index of '
                'tags is made again where no engine runs and tag_forms is empty';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER claims_are_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON {s}.claims
    FOR EACH STATEMENT EXECUTE FUNCTION {s}.refuse_slip();
CREATE TRIGGER timers_are_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON {s}.timers
    FOR EACH STATEMENT EXECUTE FUNCTION {s}.refuse_slip();
CREATE TRIGGER tags_are_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON {s}.tags
    FOR EACH STATEMENT EXECUTE FUNCTION {s}.refuse_slip();
REVOKE EXECUTE ON FUNCTION {s}.refuse_slip FROM PUBLIC;

UPDATE {s}.about SET schema_version = 7;
"""
