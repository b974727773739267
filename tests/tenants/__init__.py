"""Engines of many tenants in one process."""
