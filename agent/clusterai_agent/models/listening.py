"""Who listens on a port of this machine, and how many are connected to it: from the kernel's own table."""

import pwd
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
TASK_USER = "clusterai-dask"  # of clusterai-worker@.service and clusterai-scheduler@.service
_ESTABLISHED, _LISTEN = "01", "0A"  # include/net/tcp_states.h
_LIMIT, _CHUNK = 8 << 20, 1 << 16


@dataclass(frozen=True)
class Port:
    """A port of this machine. `known` is false where the kernel hides its table."""

    known: bool = False
    listens: bool = False
    exposed: bool = False  # to other machines
    users: frozenset[int] = frozenset()  # whose processes listen
    connections: int = 0


def task_user() -> int | None:
    """Return the id of the user as which Dask runs what anybody sent; None where this machine has none."""
    try:
        return pwd.getpwnam(TASK_USER).pw_uid
    except KeyError:
        return None


def look(port: int) -> Port:
    """Return how the port is now."""
    texts = [text for table in _TABLES if (text := _read(table))]
    return port_in("\n".join(texts), port) if texts else Port()


def listeners(port: int) -> frozenset[int]:
    """Return the ids of the users whose processes listen on the port; nobody's where the kernel hides its table.

    What listens comes first in it (tcp_get_idx of net/ipv4/tcp_ipv4.c): the rest costs milliseconds, and is not read.
    """
    return port_in("\n".join(_read(table, _is_past_listeners) for table in _TABLES), port).users


def _is_past_listeners(text: bytes) -> bool:
    """By the last whole line."""
    return text.rpartition(b"\n")[0].rpartition(b"\n")[2].split()[3:4] not in ([_LISTEN.encode()], [b"st"])


def port_in(table: str, port: int) -> Port:
    """Return how the port is by the lines of /proc/net/tcp and tcp6 (proc(5)): in hex.

    The columns: sl, local, remote, state, queues, timer, retransmissions, user, …
    """
    wanted, hosts, users, connections = f"{port:04X}", [], set(), 0
    for line in table.splitlines():
        fields = line.split(maxsplit=8)
        if len(fields) < 8 or not fields[1].endswith(f":{wanted}"):
            continue
        if fields[3] == _LISTEN:
            hosts.append(fields[1].partition(":")[0])
            users.add(int(fields[7]))
        connections += fields[3] == _ESTABLISHED
    return Port(True, bool(hosts), any(not _is_loopback(host) for host in hosts), frozenset(users), connections)


def _is_loopback(host: str) -> bool:
    """Addresses are words in the machine's byte order: 127.0.0.1 is 0100007F, and ::1 ends in 01000000."""
    if len(host) == 8:
        return host.endswith("7F")
    return host == "0" * 24 + "01000000" or (host[16:24] == "FFFF0000" and host.endswith("7F"))


def _read(table: Path, is_enough: Callable[[bytes], bool] = lambda _: False) -> str:
    """The table's text, in small steps: one large buffer would make the allocator keep more from then on."""
    text = b""
    try:
        with table.open("rb", buffering=0) as file:
            while len(text) < _LIMIT and (chunk := file.read(_CHUNK)):
                text += chunk
                if is_enough(text):
                    break
    except OSError:
        return ""
    return text.decode("ascii", "replace")
