"""The shop: orders, returns and what is read of them, as an example to copy from.

It uses the engine's public names only. Read it in this order: `orders.py` (an aggregate),
`order_views.py` (a projection), `queries.py` (questions and their answers), `shop.py` (the one
place that wires them), then `importer.py` (commands by the thousand). Run it: `python -m domain`.
"""
