"""The shop's commands, events and aggregates: the page to copy from.

Read `orders` first: commands, events, state, handlers, appliers. Then `returns`, `lines` and
`money` (values that both share), and `former_events` (what earlier releases stored).
"""
