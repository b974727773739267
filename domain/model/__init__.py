"""The shop's commands, events and aggregates: the page to copy from.

Read `orders` first: commands, events, state, handlers, appliers; in `pay` a claim, and in
`check_out` a reply. Then `stock` (a decision over an order and its products), `fulfilment` (a
process manager with a deadline, which undoes what was done), `returns`, `lines` and `money` (values
that all share), and `former_events` (what earlier releases stored).
"""
