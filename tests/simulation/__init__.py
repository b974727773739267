"""A seeded world in which a whole engine lives, crashes and recovers; see `world`."""
