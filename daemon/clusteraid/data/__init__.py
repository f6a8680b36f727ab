"""Data files of the daemon: the catalogue of models."""
