"""Backups of a log: folders of files that are written once, each proved by its checksum.

What comes in is a log that is copied (`CopySource`), in any store; what leaves is a log that can be
copied from, into any store. Read `format` (the bytes), `places` (a folder, or a stream), `writing`,
`reading`, and `repairing` (events of a backup in place of damaged ones). Nothing here runs a
command, and nothing writes to a log.
"""
