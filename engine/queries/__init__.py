"""A query until its answer.

In: a query, and perhaps a position that it must have seen. Out: an answer of one state.
Read `declared`, `answers`, `views` (what an answer reads), `question`, `interest` and `notes` (what
it has read), `live` (watched answers), `past` (views as of a position). Nothing here writes.
"""
