"""A timer until its command is answered.

In: the timers that the log has. Out: commands, each sent to its actor when it is due.
Read `firing`, then `settling` (what becomes of those whose commands wrote nothing); `schedule` and
`scheduling` (commands for a time that no aggregate of the host has set).
"""
