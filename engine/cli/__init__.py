"""The commands of `foldline`, one a file: each gives `add_parser` and what it runs.

They read a log and its views from outside, and few need code of the application whose log it is:
`schema`, and `projections build`. `printing` keeps what others wrote from moving a terminal's
cursor.
"""
