"""Events of a log, or the rows of a view, as files that other programs read.

In come stored events or rows. Out goes a file of JSON lines, CSV or Parquet, complete under its
name, or a folder of such files that grows with the log. Read in this order: `lines`, `files`,
`folder`.
"""
