"""The writer of a log as a process of its own, for `?writer=process`.

Read `store` (the engine's side), `protocol` (what goes over the line), `child` (the other side).
"""
