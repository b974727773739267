"""What tests share: aggregates, projections, stores that fail, other processes. No tests."""
