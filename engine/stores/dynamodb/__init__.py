"""The store in Amazon DynamoDB: the log in one table, each commit a transaction with a condition.

Read `store` (append and read), `form` (what is an item, and how large), `session` (whose log it
is), `writer` (transactions), `calls` (a service that is slow, or says no), then `address`.
"""
