"""What a host declares, and an event as bytes: messages, aggregates, projections, rows, codecs.

In: classes of a host. Out: definitions that say how they are called, encoded, stored and compared.
Read `messages` first, then `aggregate`, `projection` and `rows`; `codec` and `stored` (an event as
bytes); `joint`, `boundary`, `timers` and `personal` (what else a handler may decide about);
`exact`, `shape` and `upcasting` (what is read back is what was given, a year later too);
`given`, `copying` and `fingerprint` (what a caller passes).
Pure: nothing here waits, reads a clock, or knows a store.
"""
