"""Bits that are flipped in the files of a log, its views and a backup; each must be told."""
