"""What logs in servers without locks share: a lease, what is known of the log, and their backend.

Read `holder` (who has the log), `log` (the store around it), then `known`, `places` and `backend`.
"""
