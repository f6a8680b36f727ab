"""HTTP/1.1 by hand, for tests that look at each byte: a client that streams, and what a small server needs."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

SECONDS = 60.0


@dataclass(frozen=True)
class Head:
    """The first line's words and the headers, names in lower case."""

    first: tuple[str, ...]
    headers: Mapping[str, str]

    @property
    def status(self) -> int:
        """The status of an answer."""
        return int(self.first[1])


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The stable code of a refusal, in whichever shape."""
        said = self.json
        inner = said["error"] if isinstance(said.get("error"), dict) else said
        return str(inner["code"])


async def read_head(reader: asyncio.StreamReader) -> Head:
    """Read first line and headers."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
    pairs = (line.split(":", 1) for line in lines)
    return Head(tuple(first.split(" ", 2)), {name.lower(): value.strip() for name, value in pairs})


async def pieces(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> AsyncIterator[bytes]:
    """Yield a body's pieces as they come; a body that breaks off raises IncompleteReadError."""
    if headers.get("transfer-encoding") == "chunked":
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            yield await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readuntil(b"\r\n")
    elif "content-length" in headers:
        yield await reader.readexactly(int(headers["content-length"]))
    else:
        while piece := await reader.read(65536):
            yield piece


def request_bytes(
    path: str, body: bytes = b"", *, method: str = "POST", headers: Mapping[str, str] | None = None
) -> bytes:
    """Return a request; a length is added unless the headers say how the body comes."""
    all_headers = {"Host": "localhost", "Connection": "close", **(headers or {})}
    if method == "POST" and "Transfer-Encoding" not in all_headers:
        all_headers.setdefault("Content-Length", str(len(body)))
    lines = "".join(f"{name}: {value}\r\n" for name, value in all_headers.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


@asynccontextmanager
async def sent(
    port: int, request: bytes, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Send bytes to a port of this machine; leaving the block closes the connection, whatever is under way."""
    name = "localhost" if tls else None
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=name, limit=1 << 20)
    try:
        writer.write(request)
        await writer.drain()
        yield reader, writer
    finally:
        writer.transport.abort()


async def ask(
    port: int,
    path: str,
    body: Any = None,
    *,
    key: str = "",
    method: str = "",
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """Send a request and return the whole answer. A body that is no bytes is sent as JSON; with a body it is a POST."""
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    own = {"Authorization": f"Bearer {key}"} if key else {}
    verb = method or ("GET" if body is None else "POST")
    request = request_bytes(path, data, method=verb, headers={**own, **(headers or {})})
    async with asyncio.timeout(SECONDS), sent(port, request, tls) as (reader, _):
        head = await read_head(reader)
        if verb == "HEAD":
            return Answer(head.status, head.headers, b"")
        return Answer(head.status, head.headers, b"".join([piece async for piece in pieces(reader, head.headers)]))
