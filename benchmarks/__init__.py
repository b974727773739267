"""Measures the engine beside fixed floors; every figure names its durability, clients and machine."""
