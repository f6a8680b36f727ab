"""Makes this node what the daemon wants it to be."""
