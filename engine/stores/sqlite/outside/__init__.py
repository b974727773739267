"""What other processes do with a log and its views, while an engine runs or not.

Read `log` and `views` (readers), `operations` (requests and acts at rest), `shell` (SQL over both),
`copy`. Nothing here writes into a log.
"""
