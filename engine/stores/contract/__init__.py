"""What every store promises: of a log, of views, and of requests from outside.

Read `log` (with `plan`, the one function that decides what a batch may append), then `views`, then
`requests`, and `copying` (a log from one store into another). No database is named here.
"""
