"""The console: its API, who may use it, what hostile data does to it, and its page."""
