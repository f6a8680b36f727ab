"""Shared by the daemon, the agent and the command line; imports none of them."""

__version__ = "0.1.0"
