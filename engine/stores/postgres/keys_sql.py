"""The SQL of keys in a PostgreSQL server: their tables, what guards them, and what writes them.

Rules: each change takes the next number of `about` first, in a statement of its own. Its row keeps
other changes waiting until it is committed. So numbers come in the order of commits, and what is
done next sees all former changes. Each statement that writes takes that number, does nothing twice,
and gives one row. Nothing is run here.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "ADD",
    "CHANGE",
    "CHANGED",
    "CHANGES",
    "ERASE",
    "ERASURES",
    "FINISH",
    "FOUND",
    "MADE",
    "MAKE",
    "MAKE_ALONE",
    "MAKE_SCHEMA",
    "SCHEMA_FOUND",
    "TAKEN",
    "UNFINISHED",
    "VACUUM",
]

# A process that stands still in a transaction would keep all others waiting.
MAKE_ALONE: Final = """
SET LOCAL idle_in_transaction_session_timeout = '2s';
-- Several processes may come first.
SELECT pg_catalog.pg_advisory_xact_lock(1179405105, pg_catalog.hashtext('{s}'));"""
MAKE_SCHEMA: Final = "CREATE SCHEMA {s}"
"""Where it is not there: who may not make one may use one that somebody else has made."""
MAKE: Final = """
CREATE TABLE IF NOT EXISTS {s}.about(
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    log_id text NOT NULL,
    made text NOT NULL DEFAULT pg_catalog.gen_random_uuid()::text,
    changes bigint NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS {s}.keys(
    number bigint PRIMARY KEY,
    subject text NOT NULL COLLATE "C",
    secret bytea CHECK (pg_catalog.octet_length(secret) = 32),
    change bigint NOT NULL
);
CREATE INDEX IF NOT EXISTS keys_by_change ON {s}.keys(change, number);
CREATE INDEX IF NOT EXISTS keys_by_subject ON {s}.keys(subject) WHERE secret IS NOT NULL;
CREATE TABLE IF NOT EXISTS {s}.erasures(
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    token text NOT NULL UNIQUE,
    subject text NOT NULL COLLATE "C",
    asked bigint NOT NULL,
    keys integer NOT NULL,
    reason text NOT NULL,
    principal text,
    finished bigint
);
-- A slip in a shell: what a missing key has encrypted is lost, and nobody was erased.
CREATE OR REPLACE FUNCTION {s}.refuse() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$ BEGIN
    RAISE EXCEPTION 'a key and an erasure are never deleted or changed: erase a person'
        USING ERRCODE = 'raise_exception';
END $$;
CREATE OR REPLACE TRIGGER keys_never_go BEFORE DELETE ON {s}.keys
    FOR EACH ROW EXECUTE FUNCTION {s}.refuse();
CREATE OR REPLACE TRIGGER keys_are_kept BEFORE TRUNCATE ON {s}.keys
    FOR EACH STATEMENT EXECUTE FUNCTION {s}.refuse();
CREATE OR REPLACE TRIGGER keys_never_change BEFORE UPDATE ON {s}.keys
    FOR EACH ROW WHEN (new.number <> old.number OR new.subject <> old.subject
        OR new.secret IS NOT NULL OR new.change <= old.change)
    EXECUTE FUNCTION {s}.refuse();
CREATE OR REPLACE TRIGGER erasures_never_go BEFORE DELETE ON {s}.erasures
    FOR EACH ROW EXECUTE FUNCTION {s}.refuse();
CREATE OR REPLACE TRIGGER erasures_are_kept BEFORE TRUNCATE ON {s}.erasures
    FOR EACH STATEMENT EXECUTE FUNCTION {s}.refuse();
"""
SCHEMA_FOUND: Final = "SELECT true FROM pg_catalog.pg_namespace WHERE nspname = $1"
FOUND: Final = """
SELECT true FROM pg_catalog.pg_trigger t
JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND t.tgname = 'erasures_are_kept'"""
"""The last thing that is made."""
TAKEN: Final = """
SELECT true FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = 'about' AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'made')"""
"""A table of this name that is none of keys, as each log has one."""
MADE: Final = "INSERT INTO {s}.about(log_id) VALUES ($1) ON CONFLICT DO NOTHING"

CHANGES: Final = """
SELECT made, changes, (SELECT k.change FROM {s}.keys k WHERE k.number = $1::bigint)
FROM {s}.about"""
CHANGED: Final = """
SELECT number, subject, secret, change FROM {s}.keys
WHERE (change, number) > ($1::bigint, $2::bigint) ORDER BY change, number LIMIT $3::integer"""

CHANGE: Final = """
UPDATE {s}.about SET changes = changes + 1 WHERE made = $1::text
RETURNING changes, pg_catalog.set_config('synchronous_commit', 'on', true),
    pg_catalog.set_config('idle_in_transaction_session_timeout', '2s', true)"""
# Rows that come in the same statement are not seen by its question for those that stood there
# already, as behind a call whose answer was lost.
ADD: Final = """
WITH given AS (
    SELECT * FROM unnest($2::bigint[], $3::text[], $4::bytea[]) AS g(number, subject, secret)
), come AS (
    INSERT INTO {s}.keys(number, subject, secret, change)
        SELECT number, subject, secret, $1::bigint FROM given
        ON CONFLICT (number) DO NOTHING RETURNING 1
)
SELECT (SELECT count(*) FROM come) + (
    SELECT count(*) FROM given g JOIN {s}.keys k USING (number, subject)
    WHERE k.secret IS NULL OR k.secret = g.secret)"""
ERASE: Final = """
WITH gone AS (
    UPDATE {s}.keys SET secret = NULL, change = $1::bigint
        WHERE subject = $3::text AND secret IS NOT NULL RETURNING 1
), noted AS (
    INSERT INTO {s}.erasures(token, subject, asked, keys, reason, principal)
        SELECT $2::text, $3::text, $4::bigint, (SELECT count(*) FROM gone), $5::text, $6::text
        ON CONFLICT (token) DO NOTHING RETURNING number, keys
), former AS (SELECT number, keys FROM {s}.erasures WHERE token = $2::text)
SELECT number, keys FROM noted UNION ALL SELECT number, keys FROM former"""
FINISH: Final = """
WITH ended AS (
    UPDATE {s}.erasures SET finished = $3::bigint
        WHERE number = $2::bigint AND finished IS NULL RETURNING 1
)
SELECT $1::bigint"""
_ERASURES: Final = (
    "SELECT number, subject, asked, keys, reason, principal, finished FROM {s}.erasures"
)
UNFINISHED: Final = f"{_ERASURES} WHERE finished IS NULL ORDER BY number"
ERASURES: Final = f"{_ERASURES} WHERE $1::text IS NULL OR subject = $1::text ORDER BY number"
VACUUM: Final = "VACUUM (INDEX_CLEANUP ON) {s}.keys"
