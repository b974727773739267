"""Tests of what a host declares, and of an event as bytes."""
