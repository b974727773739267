"""How an engine is, as those ask who keep it running: may it live, may it be sent requests.

In comes what a moment tells: numbers of the engine that owns the log, the disk, a backup's
manifest. Out goes a report, each check of it with its value and its bound. Read `bounds`,
`report`, `facts`, `looks`, and `watch`, which puts them together.
"""
