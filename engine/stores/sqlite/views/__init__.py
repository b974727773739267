"""The views in one SQLite file: rows, checkpoints, builds, parked events, requests, search.

Read `store`, then `catalog` (what is in the file), `tables`, `writes` and `group_commit` (how rows
are written), `builds` and `planner` (how a projection is made anew), `queries`, `states` and
`shown` (how rows are read), then `parked`, `requests`, `search`, `sql_tables` and `shape`.
"""
