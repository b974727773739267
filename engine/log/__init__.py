"""The log as it is read: the bus of what is new, feeds, histories, and pages that many share.

In: stored events. Out: events to projectors, followers and the curious, each in the log's order.
Read `reader` and `shared_pages`, then `bus`, `follower`, `feed` and
`history`. Nothing here writes.
"""
