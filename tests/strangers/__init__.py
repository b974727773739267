"""Tests of the outside world: what callers, other processes and the machine do to an engine."""
