"""Loads the shop with real orders, kills it, and verifies what it promised: see `__main__`."""
