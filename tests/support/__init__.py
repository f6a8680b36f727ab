"""Shared by the tests of all layers."""
