"""A timer until its command is answered.

In: the timers that the log has. Out: commands, each sent to its actor when it is due.
Read `firing`, then `settling` (what becomes of those whose commands wrote nothing).
"""
