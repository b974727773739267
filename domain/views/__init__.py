"""What is read of the shop: rows made from events, and the questions that they answer.

Read `orders` first (one row per order), then `sales`, `customers` and `catalogue`; `queries` has
each question with the one function that answers it.
"""
