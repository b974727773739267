"""The commands of `python -m engine`, one a file: each gives `add_parser` and what it runs.

They read a log from outside, through `engine.stores.sqlite_reader`, and its views through
`engine.stores.sqlite_outside`. Few need code of the application whose log it is: `schema`, and
`projections build`.
"""
