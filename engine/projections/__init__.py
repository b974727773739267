"""An event until its row.

In: events from the bus or the log. Out: batches of changes with the checkpoint, in one
transaction. Read `projector`, `scope` (which events are mine), `targets` (what they become),
`writes`, `back_off`, `narrowing` and `failures` (what becomes of what fails), `meter`; then
`runner` (open, run, swap), `desk`, `operations` and `control` (what an operator asks), `parking`,
`retry`, `progress`. The projections do not know the write side.
"""
