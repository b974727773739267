"""The shop on a terminal: its arguments, its report, its live screen."""
