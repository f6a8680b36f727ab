"""Phones' channels against what is no gRPC server: garbage, silence, and another protocol, over real TLS."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterai import channel_h2
from clusterai.channel import Method, Patience, Trust
from clusterai.channel_h2 import H2Channel
from clusterai.errors import Unreachable
from clusterai.pki import CertificateAuthority, key_pem, new_csr, new_key
from clusterai.remote import RemoteError
from clusterai.v1.node_pb2 import GetEnvironmentLockRequest as Question
from clusterai.v1.node_pb2 import GetEnvironmentLockResponse as Answer
from fakes.http import stop_listening

ASK = Method("/test.Service/Ask", Question, Answer)
AUTHORITY = CertificateAuthority.create("unit")
SETTINGS = bytes.fromhex("000000040000000000")
Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(directory: Path, behaviour: Behaviour, *, protocol: str = "h2") -> AsyncIterator[str]:
    """A TLS server of the cluster that behaves so; yields its address."""
    key = new_key()
    issued = AUTHORITY.issue(new_csr(key), "spiffe://c/daemon", dns=["clusteraid"], server=True)
    (directory / "server.pem").write_bytes(key_pem(key) + issued.chain_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem")
    context.set_alpn_protocols([protocol])
    writers = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await behaviour(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        await stop_listening(server)
        for writer in writers:
            writer.transport.abort()
        for _ in range(8):
            await asyncio.sleep(0)


async def refused(address: str) -> str:
    """Return why a call there fails; the channel is closed after it."""
    channel = H2Channel(address, Trust(AUTHORITY.cert_pem), Patience(handshake=5, keepalive=0.2))
    try:
        with pytest.raises(Unreachable) as error:
            await channel.call(ASK, Question(environment_hash="x"), 20)
    finally:
        await channel.close()
    return str(error.value)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n" * 4, "does not speak HTTP/2"),
        (b"\xff\xff\xff\x00\x00\x00\x00\x00\x01", "a frame of 16777215 bytes"),
        (SETTINGS + b"\x00\x00\x04\x00\x00\x00\x00\x00\x07abcd", "does not speak HTTP/2"),  # data of no call
        (SETTINGS + bytes.fromhex("000004030000000001") + b"\x00\x00\x00\x02", "it broke the call off"),
        (SETTINGS + bytes.fromhex("000008070000000000") + bytes(8), "it closed the connection"),
        (b"", "it closed the connection"),
    ],
)
async def test_a_server_that_speaks_otherwise_is_named(tmp_path: Path, said: bytes, reason: str) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        writer.write(said)
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.close()

    async with listening(tmp_path, speak) as address:
        assert reason in await refused(address)


async def test_a_server_of_another_protocol_is_named(tmp_path: Path) -> None:
    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)

    async with listening(tmp_path, wait, protocol="http/1.1") as address:
        assert "does not speak HTTP/2" in await refused(address)


async def test_a_silent_server_is_asked_and_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_h2, "_ANSWER_SECONDS", 0.2)
    heard = bytearray()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SETTINGS)
        while data := await reader.read(1024):
            heard.extend(data)

    async with listening(tmp_path, listen) as address:
        assert "no answer to a question" in await refused(address)
    assert bytes.fromhex("000008060000000000") + bytes(8) in heard  # a ping


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=40) | st.sampled_from([SETTINGS, b"\x00\x00\x00"]), max_size=6))
def test_nothing_that_a_server_says_breaks_the_channel(pieces: list[bytes]) -> None:
    class Transport(asyncio.Transport):
        def write(self, data: object) -> None:
            """Nobody reads it."""

        def abort(self) -> None:
            """It is no connection."""

    async def hear() -> None:
        channel = H2Channel("127.0.0.1:1", Trust(b""), Patience())
        channel._connection = connection = channel_h2._Connection("127.0.0.1:1", 60.0)
        connection.connection_made(Transport())
        stream = channel.stream(ASK)
        assert await stream.write(Question())
        for piece in pieces:
            connection.data_received(piece)
        connection.connection_lost(None)
        assert not await stream.write(Question())
        with pytest.raises(Unreachable):
            await channel.call(ASK, Question(), 5)

    asyncio.run(hear())


@pytest.mark.parametrize(
    "said", [b"\0\0\0\0\x02\xff\xff", b"\0\0\0\0\x03\x0a\x01\xff", b"\1\0\0\0\0", b"\0\xff\xff\xff\xff"]
)
async def test_a_message_that_cannot_be_read_ends_the_call(said: bytes) -> None:
    stream = H2Channel("127.0.0.1:1", Trust(b""), Patience()).stream(ASK)
    stream._received += said
    stream._take_messages()
    with pytest.raises(RemoteError, match="it sent"):
        await stream.read()
    assert not await stream.write(Question())
