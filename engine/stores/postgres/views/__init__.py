"""The views in PostgreSQL: rows, checkpoints and decisions in a schema beside the log's.

Read `link` (a connection and its transactions), `tables` (the SQL of one table), `builds` and
`books` (what is kept), `catalog` (what is known of it), `store` (the projectors' side), then
`states`, `lane` and `queries` (the queries' side). `words`, `syntax` and `marks` translate what
SQLite's users write.
"""
