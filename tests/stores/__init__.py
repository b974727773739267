"""Tests of the logs, the views and the contract that every store keeps."""
