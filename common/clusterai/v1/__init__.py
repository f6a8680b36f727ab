"""Generated stubs of the wire protocol, package clusterai.v1."""
