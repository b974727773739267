"""Real processes that die, and real file systems that lose power: `python -m tests.crashes`."""
