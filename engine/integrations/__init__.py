"""Doors to other people's worlds; importing `engine` imports none of them."""
