"""Projections that the members of a log share: each is the duty of one of them.

Read `whose` (which member's a projection is), `life` (becomes a member, and runs what is its own),
`asking` (what operators do, wherever a projection is run) and `declaring` (what cannot be shared).
"""
