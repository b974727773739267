"""Where the log is kept: one contract, and one file per store."""
