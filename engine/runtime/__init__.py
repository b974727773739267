"""The machine and the event loop: clocks, threads, files, bells, and errors that must not escape.

In: what an engine asks of the operating system and of asyncio. Out: ports that a test can replace.
Read `ports` first, then `machine` and `native` (what stands behind them), `bell`, `ring`, `futures`
and `shared_call` (waking and being waited for), `safely`, `contained` and `tracebacks` (what a
host's code may raise), `package` (what this package is called). Nothing here knows a command, an
event or a table.
"""
