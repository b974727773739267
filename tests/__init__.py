"""Tests of the engine; they mirror its files."""
