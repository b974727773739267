"""The life of one engine in its process: start, tasks, end, threads and forks.

Read `supervisor` (the one place that starts and watches tasks), `entrance` (what is refused at the
door), `portal` (calls from threads), `watchdog` and `store_end`.
"""
