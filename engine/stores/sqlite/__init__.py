"""The store in SQLite files: one for the log and one beside it for the views.

In: batches and changes. Out: durable rows. Read `log.store` first, then `log.schema` and `wal`;
`views.store` and `views.catalog`; `process` (the writer as a process of its own); `outside` (what
other processes read and ask). `place`, `lock` and `shape` tell whether a file is still the one that
was opened, whose it is, and what it says of itself. All SQL of the engine is in this folder.
"""
