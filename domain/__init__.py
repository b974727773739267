"""The shop: orders, returns and what is read of them, as an example to copy from.

It uses the engine's public names only. Read it in this order: `model/orders.py` (an aggregate),
`views/orders.py` (a projection), `views/queries.py` (questions and their answers), `shop.py` (the
one place that wires them), `model/fulfilment.py` (a process with a deadline), then `partners/` (a
sink), `gate.py` (who may do what), `importer/` (commands by the thousand), `web/` and `terminal/`.
Run it: `python -m domain`.
"""
