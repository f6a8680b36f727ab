"""A connection to the daemon as nodes use it: calls and one stream. The gRPC library behind it is chosen here.

grpcio takes 18 MB of memory, which a phone does not have: there HTTP/2 comes from h2 and TLS from Python.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from clusterai.termux import is_android


@dataclass(frozen=True)
class Method:
    """A gRPC method: its path, and the classes of its messages."""

    path: str
    request: Any
    response: Any


@dataclass(frozen=True)
class Trust:
    """Whom a connection trusts, and what it shows: PEM. Without a key it shows nothing."""

    ca_pem: bytes
    chain_pem: bytes | None = None
    key_pem: bytes | None = None


@dataclass(frozen=True)
class Patience:
    """Seconds: what connecting may take, and how long a peer may be silent before it is asked whether it is there.

    2,000 handshakes at once take 6 s of a server's CPU.
    """

    handshake: float = 20.0
    keepalive: float = 20.0


class Stream(Protocol):
    """One call with messages in both directions."""

    async def write(self, message: Any) -> bool:
        """Send a message; False when the call has ended: `read` then says why.

        Once the first is sent several may write at once. Who stops waiting half-way breaks nothing: it is sent anyway.
        """

    async def read(self) -> Any:
        """Return the next message; None when the other side ended the call well.

        Raises:
            Unreachable: the connection failed.
            RemoteError, TimedOut: the call ended with a status.
        """

    def cancel(self) -> None:
        """Give the call up; nothing when it has ended."""


class Channel(Protocol):
    """A connection; it is made at the first call and never made again."""

    def stream(self, method: Method, limit_seconds: float | None = None) -> Stream:
        """Begin a call that may last so long."""

    async def call(self, method: Method, request: Any, limit_seconds: float) -> Any:
        """Return the answer; errors as of `Stream.read`."""

    async def close(self) -> None:
        """End all calls and the connection."""


def open_channel(address: str, trust: Trust, patience: Patience = Patience()) -> Channel:
    """Return a channel that trusts only the given CA, whatever the address."""
    if is_android():
        from clusterai.channel_h2 import H2Channel

        return H2Channel(address, trust, patience)
    from clusterai.channel_grpcio import GrpcioChannel

    return GrpcioChannel(address, trust, patience)
