"""Simulated agents in numbers, and a bare server of the same stream to compare the daemon with."""
