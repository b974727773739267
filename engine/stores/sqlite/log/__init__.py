"""The log in one SQLite file.

Read `store` (append and read), `cache` (what the writer remembers), `schema`, `pages` (how it is
read fast); `claims`, `timers`, `tags` and `snapshots` (what is kept beside events); `heads` and
`damage` (what is looked at before a file is believed); `cold` and `archiving` (the cold file).
"""
