"""Tests of a query until its answer."""
