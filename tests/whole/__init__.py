"""Tests of an engine as its host sees it, with all of its rooms."""
