"""The machine's own addresses, as others may reach it."""

import ipaddress
from collections.abc import Callable, Iterable, Sequence

import ifaddr  # type: ignore[import-untyped]

from clusterai.remote import join_address

_EVERYWHERE = ("", "0.0.0.0", "::")
_INSIDE = ("docker", "br-", "veth", "virbr", "lxc", "lxd", "podman", "cni", "flannel", "vb-", "ve-")
_LIMIT = 8
NOWHERE = ("127.0.0.1",)


def own_hosts(listen: str, advertise: Sequence[str]) -> tuple[str, ...]:
    """Return the hosts to tell nodes: those that are configured, else what the daemon listens on.

    Listening everywhere that means every routable address, IPv4 first; bridges of containers come last.
    """
    if advertise:
        return tuple(advertise)
    if listen not in _EVERYWHERE:
        return (listen,)
    found = [(adapter.name, ip.ip) for adapter in ifaddr.get_adapters() for ip in adapter.ips]
    return routable((name, ip if isinstance(ip, str) else ip[0]) for name, ip in found) or NOWHERE


def host_from_here(listen: str) -> str:
    """Return the host at which this machine itself reaches what listens there."""
    return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen, listen)


def routable(addresses: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Return the addresses that other machines may reach, the likeliest first, given interface names and addresses."""
    ranked = []
    for name, text in addresses:
        address = ipaddress.ip_address(text.partition("%")[0])
        if not (address.is_loopback or address.is_link_local or address.is_multicast):
            ranked.append((name.startswith(_INSIDE), address.version, str(address)))
    return tuple(dict.fromkeys(text for _, _, text in sorted(ranked)))[:_LIMIT]


class Reach:
    """Where this server is reached; `opened` sets the ports, which may have been any free ones."""

    def __init__(self, find: Callable[[], Sequence[str]]) -> None:
        """`find` returns the hosts as they are now."""
        self._find, self.hosts = find, tuple(find())
        self.cluster_port = self.enrollment_port = 0

    def look(self) -> bool:
        """Take over what has changed, and return whether anything has. A machine without network keeps what it had."""
        found = tuple(self._find())
        if found in (self.hosts, NOWHERE):
            return False
        self.hosts = found
        return True

    def opened(self, cluster_port: int, enrollment_port: int) -> None:
        """Note the ports that are really open."""
        self.cluster_port, self.enrollment_port = cluster_port, enrollment_port

    def cluster(self) -> tuple[str, ...]:
        """Return HOST:PORT of the mTLS port."""
        return tuple(join_address(host, self.cluster_port) for host in self.hosts)

    def enrollment(self) -> tuple[str, ...]:
        """Return HOST:PORT of the enrolment port."""
        return tuple(join_address(host, self.enrollment_port) for host in self.hosts)

    def at_first_host(self, address: str) -> str:
        """Return the address, such as "tls://:8786", with the likeliest host where it names none."""
        return address.replace("//:", f"//{join_address(self.hosts[0], 0).removesuffix('0')}")
