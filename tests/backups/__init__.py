"""Backups: made, read back, restored; logs that are verified and repaired."""
