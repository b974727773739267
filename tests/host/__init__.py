"""Tests of the life of one engine in its process."""
