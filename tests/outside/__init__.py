"""Tests of what other processes read of a log and its views."""
