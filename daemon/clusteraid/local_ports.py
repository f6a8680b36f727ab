"""The ports of `clusteraid local`, safe from another one that starts at the same time.

Minutes may pass between the choice of a port and its first listener, the scheduler for one. Until then a Unix socket in
the abstract namespace, named after the port, says that it is taken: it belongs to the same network namespace as the
port, and the kernel takes it away with this process.
"""

import contextlib
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

from clusterai.files import CannotWrite

HOST = "127.0.0.1"
_STEP, _TRIES = 10, 100  # the next ones, below those that the kernel gives to outgoing connections


@contextlib.contextmanager
def claimed_ports(wanted: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Yield free ports of the loopback, each as wanted or a little above; they are kept until the block ends.

    Raises:
        CannotWrite: none is free.
    """
    with contextlib.ExitStack() as held:
        yield {name: _claimed(port, held) for name, port in wanted.items()}


def _claimed(wanted: int, held: contextlib.ExitStack) -> int:
    for port in range(wanted, wanted + _STEP * _TRIES, _STEP):
        with contextlib.ExitStack() as tried, contextlib.suppress(OSError, OverflowError):
            claim = tried.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            claim.bind(f"\0clusteraid-local-port-{port}")
            _listen(port)
            held.enter_context(tried.pop_all())
            return port
    raise CannotWrite(Path(HOST), OSError(f"no free port from {wanted} on"))


def _listen(port: int) -> None:
    """Raise OSError if somebody listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((HOST, port))
        probe.listen(1)
