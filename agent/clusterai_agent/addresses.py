"""Server addresses as people and networks give them: checked once, where they come in."""

import asyncio
import ipaddress
import re
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

SERVER_PORT = 7443
ENROLLMENT_PORT = 7444
_TEXT_LIMIT = 300
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\.?")
_BRACKETED = re.compile(r"\[([^\]]+)\](?::(\d{1,5}))?")
_PLAIN = re.compile(r"([^:\[\]]+)(?::(\d{1,5}))?")


@dataclass(frozen=True)
class Address:
    """A host (name or IP address, IPv6 without brackets) and a port; 0: the service's own."""

    host: str
    port: int = 0

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port else host

    def with_port(self, port: int) -> "Address":
        """The same with this port where it names none."""
        return self if self.port else Address(self.host, port)

    @classmethod
    def parse(cls, text: str) -> "Address | None":
        """Return the address of HOST, HOST:PORT, [V6] or [V6]:PORT; None for anything else."""
        if len(text) > _TEXT_LIMIT:
            return None
        if _is_ip(text):
            return cls(text)
        match = _BRACKETED.fullmatch(text) or _PLAIN.fullmatch(text)
        if match is None or not 0 <= (port := int(match[2] or 0)) <= 65535:
            return None
        host = match[1]
        return cls(host, port) if _is_ip(host) or (_HOST_NAME.fullmatch(host) and ":" not in host) else None


def parse_all(texts: Iterable[str], port: int) -> list[Address]:
    """Return the readable ones, each once, in order, with the port where they name none."""
    found = {address.with_port(port): None for text in texts if (address := Address.parse(text))}
    return list(found)


def is_loopback(host: str) -> bool:
    """Whether the host is this machine as it calls itself."""
    if host.rstrip(".").lower() == "localhost":
        return True
    return _is_ip(host) and ipaddress.ip_address(host.partition("%")[0]).is_loopback


def local_address_towards(host: str) -> str:
    """Return the IP address of this machine that packets to the host would carry; empty when there is no way.

    A UDP `connect` sends nothing; it only asks the kernel for a route.
    """
    try:
        family, _, _, _, target = socket.getaddrinfo(host, SERVER_PORT, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def way_out() -> str:
    """Return the IPv4 address that packets to elsewhere would carry; empty when there is no way."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
            return str(probe.getsockname()[0])
        except OSError:
            return ""


async def network_changes(within: float, look_seconds: float = 4.0, address: Callable[[], str] = way_out) -> bool:
    """Wait for so many seconds at most; return whether this machine is in another network than at the beginning."""
    until, here = time.monotonic() + within, address()
    while (left := until - time.monotonic()) > 0:
        await asyncio.sleep(min(left, look_seconds))
        if address() not in (here, ""):
            return True
    return False


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True
