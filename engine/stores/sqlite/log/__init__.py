"""The log in one SQLite file.

Read `store` (append and read), `cache` (what the writer remembers), `schema`, `pages` (how it is
read fast), `snapshots`, then `heads` and `damage` (what is looked at before a file is believed).
"""
