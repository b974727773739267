"""Where a message broker is, and a connection with it: for members, relays and integrations."""
