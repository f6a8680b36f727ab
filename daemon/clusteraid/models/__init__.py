"""Models on the cluster's nodes: what is where, what shall be where, and what fits where."""
