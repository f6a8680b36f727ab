"""A network of its own for one run: a namespace with a bridge, which machines are plugged into."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lab.commands import CommandFailed, run

GATEWAY = "192.0.2.1"  # RFC 5737: documentation
# A socket stays in the namespace where it was made: the proxy listens out here (sd_listen_fds(3)) and connects there.
_DOORWAY = """
exec 3<&0 </dev/null
LISTEN_PID=$$ LISTEN_FDS=1 exec nsenter "--net=/run/netns/$1" /lib/systemd/systemd-socket-proxyd "$2"
"""
_STOP_SECONDS = 10


class Network:
    """The namespace; `create` and `remove` are what a context manager calls."""

    def __init__(self, name: str) -> None:
        self.name = name

    def create(self) -> None:
        """Make the namespace with its bridge."""
        run(["ip", "netns", "add", self.name])
        self._ip("link", "set", "lo", "up")
        self._ip("link", "add", "br0", "type", "bridge")
        self._ip("addr", "add", f"{GATEWAY}/24", "dev", "br0")
        self._ip("link", "set", "br0", "up")

    def remove(self) -> None:
        """Remove the namespace and with it every link."""
        with suppress(CommandFailed):
            run(["ip", "netns", "del", self.name])

    def set_link(self, machine: str, state: str) -> None:
        """Cut or heal the machine's only link: TCP sees a black hole, not an error."""
        self._ip("link", "set", f"vb-{machine}", state)

    @contextmanager
    def doorway(self, address: str) -> Iterator[int]:
        """Yield a port of this machine's loopback interface that leads to an `address:port` in the namespace."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port: int = listener.getsockname()[1]
            proxy = subprocess.Popen(["sh", "-euc", _DOORWAY, "sh", self.name, address], stdin=listener.fileno())
        try:
            yield port
        finally:
            proxy.terminate()
            proxy.wait(_STOP_SECONDS)

    def _ip(self, *words: str) -> None:
        run(["ip", "-n", self.name, *words])
