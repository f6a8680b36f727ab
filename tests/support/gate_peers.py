"""Who talks through a gate in tests: a server behind it that streams, and clients with certificates."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from clusterai.credentials import save_credentials
from clusterai.errors import Unreachable
from clusterai.models import GATEWAY_NAME, MIRROR_NAME, gate_name
from clusterai.pki import CertificateAuthority, key_pem, new_csr, new_key
from clusterai.v1.node_pb2 import CertificateKind, RenewRequest, RenewResponse
from clusterai_agent.server import Server
from fakes.http import stop_listening
from support.node_daemon import CLUSTER_ID, NodeDaemon

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
_SECONDS = 30.0


class DirectServer(Server):
    """The daemon's `Renew`, without a session around it."""

    def __init__(self, daemon: NodeDaemon) -> None:
        super().__init__()
        self._daemon = daemon
        self.address, self.away = "127.0.0.1:7443", False

    async def renew(self, csr_der: bytes, kind: CertificateKind) -> RenewResponse:
        if self.away:
            raise Unreachable("the server")
        return await self._daemon.Renew(RenewRequest(csr_der=csr_der, kind=kind), None)


@asynccontextmanager
async def listening(answer: Answer, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve on a port of loopback, yielded; connections that are left end with the block."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError, ssl.SSLError):
            return
        finally:
            tasks.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        await stop_listening(server)
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes, as it comes."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


def forward(port: int) -> Answer:
    """Return what passes a connection on to a plain port of loopback."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection("127.0.0.1", port)
        try:
            await asyncio.gather(_pass(reader, outer), _pass(inner, writer))
        finally:
            outer.transport.abort()

    return answer


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError, NotImplementedError):
        if writer.can_write_eof():
            writer.write_eof()
        else:
            writer.close()


def mirror_context(file: Path, authority: CertificateAuthority) -> ssl.SSLContext:
    """Serve with this certificate to whoever has one of the cluster's CA."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=authority.cert_pem.decode())
    context.load_cert_chain(file)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def certificate(
    file: Path, authority: CertificateAuthority, uri: str, *dns: str, lifetime: timedelta = timedelta(days=7)
) -> Path:
    """Write key and chain of a certificate; return the file."""
    key = new_key()
    issued = authority.issue(new_csr(key), f"spiffe://{CLUSTER_ID}/{uri}", dns=dns, server=True, lifetime=lifetime)
    save_credentials(file, key_pem(key), issued.chain_pem)
    return file


def gateway(directory: Path, authority: CertificateAuthority) -> Path:
    """Write the gateway's own certificate."""
    return certificate(directory / "gateway.pem", authority, "gateway", GATEWAY_NAME, MIRROR_NAME)


def client_context(authority: CertificateAuthority, file: Path | None) -> ssl.SSLContext:
    """Trust the cluster's CA, and show this certificate."""
    context = ssl.create_default_context(cadata=authority.cert_pem.decode())
    if file is not None:
        context.load_cert_chain(file)
    return context


class Wire:
    """An open connection through a gate."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @property
    def serial(self) -> str:
        """The serial number of the gate's certificate."""
        shown = self._writer.get_extra_info("peercert")
        return str(shown["serialNumber"])

    async def said(self, data: bytes) -> bytes:
        """Send and return as many bytes as come back."""
        async with asyncio.timeout(_SECONDS):
            self._writer.write(data)
            await self._writer.drain()
            return await self._reader.readexactly(len(data))

    async def asked(self, data: bytes) -> bytes:
        """Send and return all that comes until the other side ends."""
        async with asyncio.timeout(_SECONDS):
            self._writer.write(data)
            await self._writer.drain()
            return await self._reader.read(-1)


@asynccontextmanager
async def through(
    port: int, authority: CertificateAuthority, file: Path | None, name: str = gate_name("n")
) -> AsyncIterator[Wire]:
    """Connect through the gate on the port; raise OSError (ssl.SSLError is one) when it does not let in."""
    async with asyncio.timeout(_SECONDS):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client_context(authority, file), server_hostname=name
        )
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def is_let_in(port: int, authority: CertificateAuthority, file: Path | None) -> bool:
    """Whether bytes come back through the gate. In TLS 1.3 a refusal shows at the first reading only."""
    try:
        async with through(port, authority, file) as wire:
            return await wire.said(b"hello") == b"hello"
    except (OSError, asyncio.IncompleteReadError):
        return False
