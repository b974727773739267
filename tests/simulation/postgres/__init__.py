"""A PostgreSQL server as far as the log needs one, in virtual time, and lives of engines over it.

Read `database` (what is stored, and what of it outlives a crash), `plpgsql` (the log's functions,
run from their own text), `statements` (what else is asked), `server` (backends, locks, commits),
`network` (the driver, and how a line breaks), then `world` and `judge`.
"""
