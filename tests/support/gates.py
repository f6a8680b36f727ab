"""A node's gate and what is behind it, in the test's process: TLS with the gate's certificate, answers as told."""

import asyncio
import json
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clusterai.pki import CertificateAuthority
from fakes.http import stop_listening
from support.gateway import gate_certificate
from support.raw_http import pieces, read_head

Behaviour = Callable[["Gate", "Arrived", asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Arrived:
    """A request that reached a node."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


@dataclass
class Gate:
    """What a node saw. `port` is where its gate listens."""

    node: str
    port: int = 0
    arrived: list[Arrived] = field(default_factory=list)
    connections: int = 0
    aborted: asyncio.Event = field(default_factory=asyncio.Event)  # a client went away before the end


def server_tls(authority: CertificateAuthority, pem: bytes) -> ssl.SSLContext:
    """Return TLS as a gate does it: this certificate, and none but clients of the authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=authority.cert_pem.decode())
    load_pem(context, pem)
    return context


def load_pem(context: ssl.SSLContext, pem: bytes) -> None:
    """Load key and chain from one text."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "pair.pem"
        path.write_bytes(pem)
        context.load_cert_chain(path)


async def reply(
    writer: asyncio.StreamWriter, body: bytes, *, status: str = "200 OK", kind: str = "application/json"
) -> None:
    """Send a whole answer."""
    writer.write(f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()


async def names_itself(gate: Gate, request: Arrived, writer: asyncio.StreamWriter) -> None:
    """Answer with the node's name and the tokens that it took."""
    said = {
        "model": request.json.get("model"),
        "node": gate.node,
        "done": True,
        "prompt_eval_count": 7,
        "eval_count": 11,
    }
    await reply(writer, json.dumps(said).encode())


def streams(count: int, seconds: float, *, kind: str = "application/x-ndjson") -> Behaviour:
    """Return a behaviour: so many numbered lines, so far apart; it notes when the client goes away."""

    async def behaviour(gate: Gate, request: Arrived, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        try:
            for number in range(count):
                line = json.dumps({"n": number}).encode() + b"\n"
                writer.write(b"%x\r\n%b\r\n" % (len(line), line))
                await writer.drain()
                await asyncio.sleep(seconds)
                if writer.transport.is_closing():
                    raise ConnectionResetError
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        except ConnectionError:
            gate.aborted.set()

    return behaviour


async def breaks_off(gate: Gate, request: Arrived, writer: asyncio.StreamWriter) -> None:
    """Take the request and close the connection."""
    writer.close()


@asynccontextmanager
async def running_gate(
    node: str,
    authority: CertificateAuthority,
    behaviour: Behaviour = names_itself,
    *,
    pem: bytes | None = None,
    plain: bool = False,
    port: int = 0,
) -> AsyncIterator[Gate]:
    """Yield a gate that runs. `pem` is another certificate than its own; `plain`: it speaks no TLS."""
    gate = Gate(node)
    tasks: set[asyncio.Task[None]] = set()
    tls = None if plain else server_tls(authority, pem or gate_certificate(authority, node))

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        gate.connections += 1
        await _serve(gate, behaviour, reader, writer)

    server = await asyncio.start_server(connected, "127.0.0.1", port, ssl=tls, limit=1 << 20)
    gate.port = server.sockets[0].getsockname()[1]
    try:
        yield gate
    finally:
        await stop_listening(server)
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _serve(gate: Gate, behaviour: Behaviour, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of one connection."""
    try:
        while not writer.is_closing():
            head = await read_head(reader)
            has_body = "content-length" in head.headers or "transfer-encoding" in head.headers
            body = b"".join([piece async for piece in pieces(reader, head.headers)]) if has_body else b""
            request = Arrived(head.first[0], head.first[1], head.headers, body)
            gate.arrived.append(request)
            await behaviour(gate, request, writer)
    except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
        pass  # the client has gone
    finally:
        writer.transport.abort()
