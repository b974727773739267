"""A log and its views from another process than the engine's.

Read `log_file`, `archive` (histories and feeds), `onlooker` (queries), `build` (a projection made
anew), `copying` (a log into another store), `verifying` (is it whole?), `retention` (who is to be
erased). Nothing here runs a command.
"""
