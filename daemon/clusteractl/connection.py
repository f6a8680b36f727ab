"""Calls to the daemon: every one has a deadline, every failure is a sentence."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from clusteractl.target import Local, Remote, Target
from clusterai.rpc import from_rpc_error, local_channel, secure_channel

Reply = TypeVar("Reply", bound=Message)
_CLOSED = (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN)


class Cluster:
    """One connection to the daemon. Methods are named `Service/Method`; `timeout` is in seconds."""

    def __init__(self, channel: grpc.aio.Channel, target: Target, timeout: float) -> None:
        self._channel, self.target, self.timeout = channel, target, timeout

    async def call(self, method: str, request: Message, reply: type[Reply], timeout: float | None = None) -> Reply:
        """Return the reply; raise the server's own error, Unreachable or TimedOut."""
        rpc = self._channel.unary_unary(
            _path(method), request_serializer=_serialized, response_deserializer=reply.FromString
        )
        try:
            answer: Reply = await rpc(request, timeout=timeout or self.timeout)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, str(self.target)) from error
        return answer

    async def stream(
        self, method: str, request: Message, reply: type[Reply], timeout: float | None = None
    ) -> AsyncIterator[Reply]:
        """Yield the replies; without a timeout until the server ends them (keepalive finds a dead server)."""
        rpc = self._channel.unary_stream(
            _path(method), request_serializer=_serialized, response_deserializer=reply.FromString
        )
        if not await _answers(self._channel, self.timeout):
            timeout = self.timeout  # the call then says why, at once or when its time is over
        call = rpc(request, timeout=timeout)
        try:
            async for answer in call:
                yield answer
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, str(self.target)) from error
        finally:
            call.cancel()


@asynccontextmanager
async def connected(target: Target, timeout: float) -> AsyncIterator[Cluster]:
    """Open a connection, at a server with several addresses to the first that answers."""
    channel = local_channel(target.socket) if isinstance(target, Local) else await _first_answering(target, timeout)
    async with channel:
        yield Cluster(channel, target, timeout)


async def _first_answering(target: Remote, timeout: float) -> grpc.aio.Channel:
    """Return a channel to the first address that completes a handshake; the last one unchecked."""
    *others, last = target.login.addresses
    for address in others:
        channel = _remote_channel(target, address)
        if await _answers(channel, timeout / (len(others) + 1)):
            return channel
        await channel.close(None)
    return _remote_channel(target, last)


def _remote_channel(target: Remote, address: str) -> grpc.aio.Channel:
    own = target.login.credentials
    return secure_channel(address, ca_pem=target.login.ca_pem, chain_pem=own.chain_pem, key_pem=own.key_pem)


async def _answers(channel: grpc.aio.Channel, timeout: float) -> bool:
    state = channel.get_state(try_to_connect=True)
    try:
        async with asyncio.timeout(timeout):
            while state is not grpc.ChannelConnectivity.READY and state not in _CLOSED:
                await channel.wait_for_state_change(state)
                state = channel.get_state()
    except TimeoutError:
        return False
    return state is grpc.ChannelConnectivity.READY


def _path(method: str) -> str:
    return f"/clusterai.v1.{method}"


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()
