"""A Wi-Fi between a server and a phone, in network namespaces: addresses that change, airplane mode, and no multicast
for the phone, as Android filters it. Needs root.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from lab.commands import CommandFailed, run

SERVER, SECOND, THIRD, PHONE = "192.0.2.10", "192.0.2.20", "192.0.2.30", "192.0.2.77"  # RFC 5737: documentation
_ROUTER = "192.0.2.1"


@dataclass(frozen=True)
class Air:
    """`server` and `phone` are network namespaces; between them is a bridge in a third."""

    server: str
    phone: str
    bridge: str

    @classmethod
    @contextmanager
    def on(cls) -> "Iterator[Air]":
        """Yield the network, the server at SERVER and the phone at PHONE; it is gone at the end of the block."""
        air = cls(*(f"cai-{os.getpid()}-{part}" for part in ("server", "phone", "bridge")))
        try:
            air._make()
            yield air
        finally:
            for name in (air.server, air.phone, air.bridge):
                with suppress(CommandFailed):
                    run(["ip", "netns", "del", name])

    def inside_server(self) -> tuple[str, ...]:
        """Return the words before a command that runs it at the server, in its own place."""
        return ("nsenter", f"--net=/run/netns/{self.server}", "--")

    def give(self, address: str) -> None:
        """Give the server one address more."""
        _ip(self.server, "addr", "add", f"{address}/24", "dev", "wlan0")

    def take(self, address: str) -> None:
        """Take an address of the server away; what it has besides stays."""
        _ip(self.server, "addr", "del", f"{address}/24", "dev", "wlan0")

    def airplane_mode(self, *, on: bool) -> None:
        """Switch the phone's radio off, or on again."""
        _ip(self.phone, "link", "set", "wlan0", "down" if on else "up")
        if not on:
            _ip(self.phone, "route", "add", "default", "via", _ROUTER)

    def _make(self) -> None:
        for name in (self.bridge, self.server, self.phone):
            run(["ip", "netns", "add", name])
            _ip(name, "link", "set", "lo", "up")
        _ip(self.bridge, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        _ip(self.bridge, "link", "set", "br0", "up")
        for name, address in ((self.server, SERVER), (self.phone, PHONE)):
            port = name.rpartition("-")[2]
            _ip(self.bridge, "link", "add", port, "type", "veth", "peer", "name", "wlan0", "netns", name)
            _ip(self.bridge, "link", "set", port, "master", "br0", "up")
            _ip(name, "addr", "add", f"{address}/24", "dev", "wlan0")
            run(["nsenter", f"--net=/run/netns/{name}", "sysctl", "-qw", "net.ipv4.conf.wlan0.promote_secondaries=1"])
            _ip(name, "link", "set", "wlan0", "up")
            _ip(name, "route", "add", "default", "via", _ROUTER)
        run(["bridge", "-n", self.bridge, "link", "set", "dev", "phone", "mcast_flood", "off"])


def _ip(namespace: str, *words: str) -> None:
    run(["ip", "-n", namespace, *words])
