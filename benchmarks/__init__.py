"""Measures the engine beside fixed floors; every figure names its conditions."""
