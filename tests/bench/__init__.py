"""Benchmarks: each measures against a baseline in the same run and says whether the limit is kept."""
