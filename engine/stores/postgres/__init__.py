"""The store in a PostgreSQL server: the log in one schema of a database.

Read `address` (what a URL says), `driver` (how the server is spoken to), then `failures` (what its
errors mean) and `notices` (what others are told of). asyncpg is imported where a server is
connected to, and nowhere else.
"""
