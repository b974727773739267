"""Tests of what users test their own domains with."""
