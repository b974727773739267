"""Process managers."""
