"""A simulated world in which a whole engine runs: loop, clock, threads and disk, all by a seed."""
