"""What operators see of an engine and do with it: the same from inside it and beside it.

`operations` says what can be asked and done, and `answers` what is given. `inside` answers for an
engine of this process, `beside` for a log from another process, at rest or in use. The console, its
API and the tools for agents ask nothing else.
"""
