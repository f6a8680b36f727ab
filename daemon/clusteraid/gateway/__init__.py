"""The daemon's side of the gateway: the files that it reads, its certificates, the keys, and what it says of itself."""
