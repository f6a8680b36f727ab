"""Which cluster a command talks to: this machine's daemon by its socket, else the one the user logged in to."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from clusteractl.errors import NoCluster, NoSocket, SocketDenied
from clusteractl.logins import Login


class Access(Enum):
    """What this user can do with a socket."""

    OPEN = "open"
    DENIED = "denied"
    ABSENT = "absent"


@dataclass(frozen=True)
class Local:
    """The daemon of this machine."""

    socket: Path

    def __str__(self) -> str:
        return f"the daemon at {self.socket}"


@dataclass(frozen=True)
class Remote:
    """The daemon of the cluster that the user logged in to."""

    login: Login

    def __str__(self) -> str:
        return f"the server {self.login.addresses[0]}"


Target = Local | Remote


def access(socket: Path) -> Access:
    """Return what this user can do with the socket; a directory that hides it is a denial."""
    try:
        socket.stat()
    except PermissionError:
        return Access.DENIED
    except OSError:
        return Access.ABSENT
    return Access.OPEN if os.access(socket, os.R_OK | os.W_OK) else Access.DENIED


def choose(
    given: Path | None,
    sockets: tuple[Path, ...],
    login: Callable[[], Login | None],
    user: str,
    probe: Callable[[Path], Access] = access,
) -> Target:
    """Return the target: a socket that was asked for, the system's (the first), the login, then the other sockets.

    Raises:
        NoSocket: the socket that was asked for does not exist.
        SocketDenied: the only way is a socket that this user may not open.
        NoCluster: there is no way.
    """
    if given is not None:
        return _asked_for(given, user, probe)
    system, *others = sockets
    if (found := probe(system)) is Access.OPEN:
        return Local(system)
    if (known := login()) is not None:
        return Remote(known)
    for socket in others:
        if probe(socket) is Access.OPEN:
            return Local(socket)
    if found is Access.DENIED:
        raise SocketDenied(socket=system, user=user)
    raise NoCluster(socket=system)


def _asked_for(socket: Path, user: str, probe: Callable[[Path], Access]) -> Local:
    match probe(socket):
        case Access.DENIED:
            raise SocketDenied(socket=socket, user=user)
        case Access.ABSENT:
            raise NoSocket(socket=socket)
    return Local(socket)
