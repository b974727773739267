"""A command until its receipt.

In: a command from the door. Out: a receipt, or an error that says whether it was written.
Read `reception`, `directory`, `mailbox`, `resident` and `actor`; `dispatcher` and `deliberation`
(turns, async handlers); `encoding`, `keys` and `journal` (what becomes durable); then `snapshot`,
`admission` and `observed` (the gate, a telemetry). For what several decide together read `joint`,
`boundary` and `tagged`; with several owners of a log, `shared`.
The write side does not know the projections, and waits for none of them.
"""
