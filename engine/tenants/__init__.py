"""Tenants: an engine and a store for each, opened when it is asked for, and closed at rest.

In comes the name of a tenant; out goes its engine, for as long as the caller uses it. Read `names`,
then `tenants`.
"""
