"""Where a log and its views are kept.

In: batches of events, changes of rows. Out: pages of events, rows. `contract` says what a store
promises, and `foldline.testing.conformance` holds each one to it. `urls` turns `store=` into a
store. Read `contract.log`, then `memory` (the smallest one), then `sqlite`.
A store never decodes a payload and never reads a clock.
"""
