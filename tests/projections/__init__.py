"""Tests of an event until its row, or its delivery."""
