"""The daemon's three doors: mTLS, enrolment, and the local socket. The only module that opens gRPC ports."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from clusterai.errors import ClusterAIError, Status
from clusterai.remote import join_address
from clusterai.rpc import SERVER_OPTIONS
from clusteraid.access import Access, Listener
from clusteraid.interceptors import Boundary

log = logging.getLogger(__name__)
STOP_SECONDS = 2.0  # for calls that are still running
_SOCKET_MODE = 0o660
_SOCKET_PATH_LIMIT = 107
AddServicer = Callable[[Any], None]  # adds one servicer to a server


class PortTaken(ClusterAIError):
    code, status = "port-taken", Status.FAILED
    message = "cannot listen on {address} ([server] {key}): {reason}"
    hint = "see who has it: `ss -ltnp 'sport = :{port}'`; stop it, or set another [server] {key} in clusteraid.toml"


class BadSocket(ClusterAIError):
    code, status = "bad-socket", Status.FAILED
    message = "cannot listen on the socket {path}: {reason}"
    hint = "check its directory (`ls -ld {directory}`) and [server] socket in clusteraid.toml"


@dataclass(frozen=True)
class Doors:
    """What is served where."""

    access: Access
    cluster: Sequence[AddServicer]  # on the mTLS port and the local socket
    enrollment: Sequence[AddServicer]  # on the enrolment port, and nowhere else
    cluster_credentials: grpc.ServerCredentials
    enrollment_credentials: grpc.ServerCredentials


@dataclass(frozen=True)
class Ports:
    """The ports that are really open."""

    cluster: int
    enrollment: int


@contextlib.asynccontextmanager
async def serving(doors: Doors, host: str, ports: Ports, path: Path) -> AsyncIterator[Ports]:
    """Open all doors; close them within a bounded time at the end.

    Raises:
        PortTaken: another program has one of the ports, or the address is not this machine's.
        BadSocket: the socket cannot be made.
    """
    cluster = _server(doors, Listener.MUTUAL_TLS, doors.cluster)
    bound = _bind(cluster, host, ports.cluster, doors.cluster_credentials, "port")
    enrollment = _server(doors, Listener.ENROLLMENT, doors.enrollment)
    joining = _bind(enrollment, host, ports.enrollment, doors.enrollment_credentials, "enrollment_port")
    local = _server(doors, Listener.LOCAL, doors.cluster)
    servers = (cluster, enrollment, local)
    with _local_socket(local, path):
        try:
            for server in servers:
                await server.start()
            path.chmod(_SOCKET_MODE)
            log.info("listening on ports %d and %d and on %s", bound, joining, path)
            yield Ports(bound, joining)
        finally:
            await asyncio.gather(*(server.stop(STOP_SECONDS) for server in servers))


def _server(doors: Doors, listener: Listener, servicers: Sequence[AddServicer]) -> Any:
    server = grpc.aio.server(interceptors=(Boundary(doors.access, listener),), options=SERVER_OPTIONS)
    for add in servicers:
        add(server)
    return server


def _bind(server: Any, host: str, port: int, credentials: grpc.ServerCredentials, key: str) -> int:
    """Return the port that the server got."""
    address = join_address(host, port)
    reason = _why_not(host, port)
    try:
        bound: int = server.add_secure_port(address, credentials) if not reason else 0
    except RuntimeError as error:
        raise PortTaken(address=address, port=port, key=key, reason=error) from error
    if not bound:
        raise PortTaken(address=address, port=port, key=key, reason=reason or "the address is in use")
    return bound


def _why_not(host: str, port: int) -> str:
    """Return why the port cannot be had, in the system's words (gRPC does not tell them), or nothing."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
    except OSError as error:
        return error.strerror or str(error)
    return ""


@contextlib.contextmanager
def _local_socket(server: Any, path: Path) -> Any:
    """Bind the Unix socket: a stale one is removed, one of a living daemon is not; nobody else may open it."""
    _check_socket(path)
    before = os.umask(0o777 & ~_SOCKET_MODE)
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        server.add_insecure_port(f"unix:{path}")
    except (OSError, RuntimeError) as error:
        raise BadSocket(path=path, reason=error, directory=path.parent) from error
    finally:
        os.umask(before)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _check_socket(path: Path) -> None:
    if len(os.fsencode(path)) > _SOCKET_PATH_LIMIT:
        raise BadSocket(path=path, reason="its path is longer than 107 bytes", directory=path.parent)
    if not path.exists():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:  # nobody listens: left behind by a daemon that was killed
            return
        except OSError as error:
            raise BadSocket(path=path, reason=error.strerror, directory=path.parent) from error
    raise BadSocket(path=path, reason="another program listens there", directory=path.parent)
