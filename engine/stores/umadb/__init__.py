"""The store in an UmaDB server: the log in one database of it, where other programs read it too.

Read `store` (append and read), `form` (an event of this engine as one of UmaDB), `session` (whose
log it is), `writer` and `reading`, `calls` (a client that blocks, and a server that goes), then
`address`.
"""
