"""Planted bugs: one small change per promise and rule, and the tests that must catch each."""
