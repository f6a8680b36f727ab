"""Whether this node works now or rests, and why."""
