"""Doubles of what cannot be had in tests: Ollama, because model weights cannot, and the registry that it pulls from.

They need nothing but Python's standard library, so that they also run on a bare Debian machine. Their behaviour was
written down from Ollama's documents and source; docs/testing.md says what they are and how they are held to it.
"""
