"""What a projection writes to: rows, tables of its own SQL, or a sink outside.

Read `rows` (with what all targets share), `staging` (rows in memory while a batch is folded),
`sql`, then `sink` and `courier`. `choose` picks one of the three.
"""
