"""The SQL of an archive in PostgreSQL: what the log gets for it, and the schema beside the log.

Rules: the schema of the archive leans on the log's, and the log's leans on nothing in it, so that
each can be dumped and restored apart. The database itself lets an event be emptied only where the
archive has the same contents, byte for byte, and lets nothing else of an event change. What is in
the archive never changes. Whoever may read the events may read it.
"""

from __future__ import annotations

from typing import Final

from ...contract.archiving import MOVED

__all__ = ["ARCHIVES", "ARCHIVES_SINCE", "COLD", "cold_schema"]

ARCHIVES_SINCE: Final = 8

ARCHIVES: Final = f"""
CREATE TABLE {{s}}.archives(
    number integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    begun bigint NOT NULL,
    rule text NOT NULL,
    streams bigint NOT NULL,
    events bigint NOT NULL,
    bytes bigint NOT NULL,
    position bigint NOT NULL
);
-- An engine that is older than this would take what is left of a moved event for damage.
ALTER TABLE {{s}}.about ADD COLUMN archives_since timestamptz NOT NULL DEFAULT clock_timestamp();

DROP TRIGGER events_never_change ON {{s}}.events;
CREATE TRIGGER events_never_change BEFORE DELETE OR TRUNCATE ON {{s}}.events
    FOR EACH STATEMENT EXECUTE FUNCTION {{s}}.refuse_change();
CREATE FUNCTION {{s}}.only_move() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF new.encoding <> {MOVED} OR new.payload <> '' OR new.metadata <> ''
        OR (new.position, new.recorded, new.behind, new.checksum, new.version, new.type,
            new.stream) IS DISTINCT FROM (old.position, old.recorded, old.behind, old.checksum,
            old.version, old.type, old.stream)
    THEN
        RAISE EXCEPTION 'an event is never changed and never deleted'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    PERFORM 1 FROM {{s}}_archive.contents c WHERE c.position = old.position
        AND c.checksum = old.checksum AND c.encoding = old.encoding AND c.payload = old.payload
        AND c.metadata = old.metadata;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'an event is emptied only where the archive has the same'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN new;
END $$;
CREATE TRIGGER events_only_move BEFORE UPDATE ON {{s}}.events
    FOR EACH ROW EXECUTE FUNCTION {{s}}.only_move();
REVOKE EXECUTE ON FUNCTION {{s}}.only_move FROM PUBLIC;

UPDATE {{s}}.about SET schema_version = {ARCHIVES_SINCE};
"""  # noqa: S608 - numbers of ours
"""What leads from schema version 7 to 8."""

COLD: Final = f"""
CREATE SCHEMA {{s}}_archive;
CREATE TABLE {{s}}_archive.about(
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    log_id text NOT NULL
);
INSERT INTO {{s}}_archive.about(log_id) SELECT log_id FROM {{s}}.about;
CREATE TABLE {{s}}_archive.contents(
    position bigint PRIMARY KEY,
    checksum bigint NOT NULL,
    encoding integer NOT NULL,
    payload bytea NOT NULL,
    metadata bytea NOT NULL
);
CREATE TRIGGER contents_never_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {{s}}_archive.contents
    FOR EACH STATEMENT EXECUTE FUNCTION {{s}}.refuse_change();

CREATE VIEW {{s}}_archive.log AS SELECT
    e.position,
    e.stream,
    e.version,
    t.name AS event,
    t.version AS event_version,
    to_timestamp(e.recorded / 1000000.0) AS recorded,
    CASE c.encoding WHEN 0 THEN convert_from(c.payload, 'UTF8') ELSE encode(c.payload, 'hex') END
        AS payload,
    CASE WHEN c.metadata = '' THEN NULL WHEN c.encoding = 0 THEN convert_from(c.metadata, 'UTF8')
        ELSE encode(c.metadata, 'hex') END AS metadata
FROM {{s}}_archive.contents c JOIN {{s}}.events e ON e.position = c.position
LEFT JOIN {{s}}.event_types t ON t.number = e.type WHERE e.encoding = {MOVED};

DO $$ DECLARE reader text; BEGIN
    FOR reader IN SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC'
            ELSE quote_ident(pg_get_userbyid(a.grantee)) END
        FROM pg_catalog.pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
        WHERE c.oid = '{{s}}.events'::regclass AND a.privilege_type = 'SELECT'
    LOOP
        EXECUTE 'GRANT USAGE ON SCHEMA {{s}}_archive TO ' || reader;
        EXECUTE 'GRANT SELECT ON ALL TABLES IN SCHEMA {{s}}_archive TO ' || reader;
    END LOOP;
END $$;
"""  # noqa: S608 - a number of ours
"""What makes the schema of the archive, in one transaction."""


def cold_schema(schema: str) -> str:
    """Give what the schema of the archive of a log is called."""
    return f"{schema}_archive"
