"""What other processes do with a log and its views, while an engine runs or not.

Read `log` and `views` (readers), `operations` (requests and acts at rest), `shell` (SQL over both),
`copy` (file to file), `copy_from` and `copy_into` (from and to another store). Nothing here writes
into a log that an engine opens.
"""
