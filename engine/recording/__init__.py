"""Commands as they were decided, kept in files, and decided again from there.

In: what a handler was given, and what it gave. Out: lines of files; later, how a handler decides
the same commands today. Read in this order: `forms`, `recorder`, `files`, `replaying`.
"""
