"""Tests of a command until its receipt."""
