"""A network of its own for one run: a namespace with a bridge, which machines are plugged into."""

from contextlib import suppress

from lab.commands import CommandFailed, run

GATEWAY = "192.0.2.1"  # RFC 5737: documentation


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

    def _ip(self, *words: str) -> None:
        run(["ip", "-n", self.name, *words])
