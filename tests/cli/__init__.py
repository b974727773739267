"""Tests of `python -m engine`, each command as a process or by its `main`."""
