"""Ports of the loopback interface for servers that are told theirs before they start."""

import random
import socket
from contextlib import ExitStack
from pathlib import Path

_FIRST, _TRIES = 10_000, 1000


def free_ports(count: int) -> list[int]:
    """Return ports that nobody has now, below those that the kernel gives to clients: one of them could take it."""
    clients = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports: list[int] = []
    with ExitStack() as held:
        for port in random.sample(range(_FIRST, max(clients, _FIRST + _TRIES)), _TRIES):
            if len(ports) == count:
                break
            try:
                held.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            ports.append(port)
    assert len(ports) == count, f"only {len(ports)} of {count} ports are free"
    return ports


def free_port() -> int:
    """Return one such port."""
    [port] = free_ports(1)
    return port
