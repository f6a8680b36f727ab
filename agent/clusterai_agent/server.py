"""Calls to the daemon beside the session's stream, over the same channel."""

import asyncio
from typing import Any

from clusterai.channel import Channel, Method
from clusterai.errors import Unreachable
from clusterai.v1.node_pb2 import (
    CertificateKind,
    GetEnvironmentLockRequest,
    GetEnvironmentLockResponse,
    RenewRequest,
    RenewResponse,
)

CALL_SECONDS = 20.0
_RENEW = Method("/clusterai.v1.NodeService/Renew", RenewRequest, RenewResponse)
_LOCK = Method(
    "/clusterai.v1.NodeService/GetEnvironmentLock", GetEnvironmentLockRequest, GetEnvironmentLockResponse
)


class Server:
    """The daemon, while a session stands. The connection says through which channel."""

    def __init__(self) -> None:
        self._channel: Channel | None = None
        self._connected = asyncio.Event()
        self.address = ""  # HOST:PORT at which the daemon answered last

    def reached(self, channel: Channel, address: str) -> None:
        """From now on calls go through this channel."""
        self._channel, self.address = channel, address
        self._connected.set()

    def lost(self) -> None:
        """There is no session; calls fail until the next."""
        self._channel = None
        self._connected.clear()

    @property
    def connected(self) -> bool:
        """Whether a session stands."""
        return self._connected.is_set()

    async def wait_connected(self) -> None:
        """Return when a session stands."""
        await self._connected.wait()

    async def renew(self, csr_der: bytes, kind: CertificateKind) -> RenewResponse:
        """Return a new certificate for this node's own identity; raise a ClusterAIError."""
        response: RenewResponse = await self._call(_RENEW, RenewRequest(csr_der=csr_der, kind=kind))
        return response

    async def environment_lock(self, environment_hash: str) -> GetEnvironmentLockResponse:
        """Return the lock of an environment; raise a ClusterAIError."""
        request = GetEnvironmentLockRequest(environment_hash=environment_hash)
        response: GetEnvironmentLockResponse = await self._call(_LOCK, request)
        return response

    async def _call(self, method: Method, request: Any) -> Any:
        if self._channel is None:
            raise Unreachable(self.address or "the server", "there is no session now", "it is retried by itself")
        return await self._channel.call(method, request, CALL_SECONDS)
