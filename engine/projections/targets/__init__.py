"""What a projection writes to: rows, tables of its own SQL, a sink outside, or commands.

Read `rows` (with what all targets share), `staging` (rows in memory while a batch is folded),
`sql`, `sink` and `courier`, then `reactor` and `errands` (commands because of events). `choose`
picks one of the four.
"""
