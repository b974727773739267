"""A log in PostgreSQL and its views for other processes than the engine's.

Read `blocking` (how calls that wait are made calls that block), `log` (the log, read), `views` (the
views, read), `notices` (what the server tells), `operations` (what is asked for, and done at rest),
`shell` (SQL for people), `copy_from` and `copy_into` (a log from and to another store).
"""
