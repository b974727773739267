"""Several owners of one log: each process decides for its slots, and sends on what is another's."""
