"""Who the shop works with outside: the carrier that fetches its parcels.

In: events that are durable. Out: calls to systems of others, at least once. Nothing is decided
here, and no view is written.
"""
