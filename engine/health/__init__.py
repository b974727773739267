"""The health of an engine: whether it is live and ready, each check with value and bound.

In comes what a moment tells: numbers of the engine that owns the log, the disk, a backup's
manifest. Out goes a report, each check of it with its value and its bound. Read `bounds`,
`report`, `facts`, `looks`, and `watch`, which puts them together.
"""
