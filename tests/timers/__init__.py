"""Tests of timers until their commands are answered."""
