"""Invoices in, commands out: a file of thousands is looked at as a whole, then sent.

Read `importer`, then `invoices` and `text_file`. `data/` has two weeks of real invoices.
"""
