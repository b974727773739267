"""The log in one schema of a PostgreSQL database.

Read `store` (append and read), `schema` (what the database itself refuses), `appending` (a batch as
arrays, and its answer), `session` (whose log it is), `writer` (what is done when a connection
breaks), then `reading`.
"""
