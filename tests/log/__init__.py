"""Tests of the log as it is read: bus, feeds, histories."""
