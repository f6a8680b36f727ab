"""The control plane daemon."""
