"""Channels of grpcio, the library of the daemon and of nodes that are no phones."""

import asyncio
from typing import Any

import grpc

from clusterai.channel import Method, Patience, Trust
from clusterai.rpc import from_rpc_error, secure_channel


class GrpcioChannel:
    """A channel of grpcio."""

    def __init__(self, address: str, trust: Trust, patience: Patience) -> None:
        self._address = address
        self._channel = secure_channel(
            address, ca_pem=trust.ca_pem, chain_pem=trust.chain_pem, key_pem=trust.key_pem,
            handshake_seconds=patience.handshake, keepalive_seconds=patience.keepalive,
        )

    def stream(self, method: Method, limit_seconds: float | None = None) -> "GrpcioStream":
        """Begin a call that may last so long."""
        begin: Any = self._channel.stream_stream(
            method.path, method.request.SerializeToString, method.response.FromString
        )
        return GrpcioStream(begin(timeout=limit_seconds), self._address)

    async def call(self, method: Method, request: Any, limit_seconds: float) -> Any:
        """Return the answer."""
        begin: Any = self._channel.unary_unary(
            method.path, method.request.SerializeToString, method.response.FromString
        )
        try:
            return await begin(request, timeout=limit_seconds)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, self._address) from error

    async def close(self) -> None:
        """End all calls and the connection."""
        await self._channel.close(None)


class GrpcioStream:
    """A call of grpcio."""

    def __init__(self, call: Any, address: str) -> None:
        self._call, self._address = call, address
        self._writing = asyncio.Lock()  # gRPC takes one message at a time

    async def write(self, message: Any) -> bool:
        """Send a message; False when the call has ended. gRPC ends the call when who waits for it is cancelled."""
        return await asyncio.shield(asyncio.create_task(self._write(message), name="message"))

    async def _write(self, message: Any) -> bool:
        try:
            async with self._writing:
                await self._call.write(message)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return False
        return True

    async def read(self) -> Any:
        """Return the next message; None when the other side ended the call well."""
        try:
            message = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, self._address) from error
        return message or None  # gRPC's mark of the end is false, and no message is

    def cancel(self) -> None:
        """Give the call up."""
        self._call.cancel()
