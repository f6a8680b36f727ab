"""Real Debian machines, systemd as PID 1, in a network namespace of their own: what the system tests run on."""
