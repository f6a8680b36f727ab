"""HTTP/1.1 on asyncio's streams, as much of it as the doubles need."""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import unquote, urlsplit

_PIECE, _HEAD_LIMIT, _AHEAD_LIMIT = 1 << 16, 1 << 16, 1 << 20
_STEPS_TO_ACCEPT = 8  # of the event loop: more than asyncio needs
JSON_TYPE = "application/json; charset=utf-8"


class HttpFault(Exception):
    """Ends a request with this answer: a JSON value or, as text, a plain sentence."""

    def __init__(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, body)
        self.status, self.body, self.headers = status, body, dict(headers or {})


class Cut(Exception):
    """Ends the connection in the middle, as a crash does."""


@dataclass
class Request:
    """A request whose body was read. Names of headers are in lower case."""

    method: str
    path: str
    query: str
    version: str
    headers: dict[str, str]
    body: bytes
    peer: str

    @property
    def keep_alive(self) -> bool:
        """Whether the client may ask again on this connection."""
        said = self.headers.get("connection", "").lower()
        return "close" not in said and (self.version == "HTTP/1.1" or "keep-alive" in said)


class Stream:
    """One connection's bytes, with a look ahead: that the other side has gone shows before its next request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer
        self._buffer = bytearray()
        self.ended = False

    async def _more(self) -> bool:
        try:
            data = await self._reader.read(_PIECE)
        except ConnectionError:
            data = b""
        self.ended = not data
        self._buffer += data
        return bool(data)

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    async def line(self) -> bytes:
        """Return the next line; empty at the end."""
        while b"\n" not in self._buffer:
            if len(self._buffer) > _HEAD_LIMIT or not await self._more():
                return b""
        return self._take(self._buffer.index(b"\n") + 1)

    async def some(self, limit: int) -> bytes:
        """Return at most so many bytes as soon as there are any; empty at the end."""
        if not self._buffer:
            await self._more()
        return self._take(min(limit, _PIECE))

    async def exactly(self, count: int) -> bytes:
        """Return so many bytes; raise ConnectionError when there are fewer."""
        while len(self._buffer) < count:
            if not await self._more():
                raise ConnectionError("unexpected EOF")
        return self._take(count)

    async def gone(self) -> None:
        """Return when the other side has ended the connection. What it sends meanwhile is kept."""
        while not self.ended:
            if len(self._buffer) > _AHEAD_LIMIT:
                await asyncio.Event().wait()
            await self._more()

    async def headers(self) -> dict[str, str]:
        """Return the header lines up to the empty one."""
        found = {}
        while line := (await self.line()).strip():
            name, _, value = line.decode("latin-1").partition(":")
            found[name.strip().lower()] = value.strip()
        return found

    async def chunk(self) -> bytes:
        """Return the next piece of a chunked body; empty after the last."""
        line = await self.line()
        if not line:
            raise ConnectionError("unexpected EOF")
        size = int(line.split(b";")[0], 16)
        data = await self.exactly(size)
        await self.line()
        return data

    async def request(self) -> Request | None:
        """Return the next request; None at the end of the connection."""
        words = (await self.line()).decode("latin-1").split()
        if len(words) != 3:
            return None
        method, target, version = words
        headers = await self.headers()
        if headers.get("expect", "").lower() == "100-continue":
            self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if "chunked" in headers.get("transfer-encoding", ""):
            pieces = []
            while piece := await self.chunk():
                pieces.append(piece)
            body = b"".join(pieces)
        else:
            body = await self.exactly(int(headers.get("content-length", "0")))
        parts = urlsplit(target)
        peer = str((self.writer.get_extra_info("peername") or ("",))[0])
        return Request(method, unquote(parts.path), parts.query, version, headers, body, peer)


class Reply:
    """The answer to one request."""

    def __init__(self, request: Request, writer: asyncio.StreamWriter) -> None:
        self._request, self._writer = request, writer
        self.status = 0
        self.sent = 0
        self._chunked = False
        self.keep_alive = request.keep_alive

    async def start(self, status: int, kind: str, headers: Mapping[str, str] | None = None, length: int = -1) -> None:
        """Send the head; without a length the body's pieces are sent in chunks."""
        self.status = status
        self._chunked = length < 0 and self._request.version == "HTTP/1.1"
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"Content-Type: {kind}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if self._chunked:
            lines.append("Transfer-Encoding: chunked")
        elif length >= 0:
            lines.append(f"Content-Length: {length}")
        else:
            self.keep_alive = False
        if not self.keep_alive:
            lines.append("Connection: close")
        self._writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        await self._writer.drain()

    async def send(self, data: bytes) -> None:
        """Send a piece of the body at once."""
        if self._request.method == "HEAD" or not data:
            return
        self.sent += len(data)
        self._writer.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        await self._writer.drain()

    async def end(self) -> None:
        """Finish the body."""
        if self._chunked and self._request.method != "HEAD":
            self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    async def whole(self, status: int, body: bytes, kind: str, headers: Mapping[str, str] | None = None) -> None:
        """Send an answer in one go."""
        await self.start(status, kind, headers, len(body))
        await self.send(body)

    async def json(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
        """Send a JSON value."""
        await self.whole(status, json.dumps(value, ensure_ascii=False).encode(), JSON_TYPE, headers)

    async def text(self, status: int, sentence: str) -> None:
        """Send plain text."""
        await self.whole(status, sentence.encode(), "text/plain; charset=utf-8")


Handler = Callable[[Request, Reply], Awaitable[None]]


async def stop_listening(server: asyncio.Server) -> None:
    """Close a server. Whoever was let in a moment ago has its handler then.

    `Server.close` alone forgets a connection that was accepted in the same turn of the loop, and its socket stays open.
    """
    loop = asyncio.get_running_loop()
    for listener in server.sockets:
        loop.remove_reader(listener.fileno())
    for _ in range(_STEPS_TO_ACCEPT):
        await asyncio.sleep(0)
    server.close()


@dataclass
class HttpServer:
    """Listens and hands each request to `handle`; calls `aborted` when the client goes before the answer is whole."""

    handle: Handler
    host: str = "127.0.0.1"
    port: int = 0
    aborted: Callable[[Request, Reply], None] = lambda request, reply: None
    tls: ssl.SSLContext | None = None
    _tasks: set["asyncio.Task[Any]"] = field(default_factory=set)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, self.host, self.port, backlog=1024, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        await stop_listening(self._server)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def authority(self) -> str:
        """Host and port, as in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(Stream(reader, writer))
        except (ConnectionError, ValueError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._tasks.discard(task)
            writer.close()
            with suppress(ConnectionError, asyncio.CancelledError, ssl.SSLError):
                await writer.wait_closed()

    async def _serve(self, stream: Stream) -> None:
        with suppress(OSError):
            stream.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while (request := await stream.request()) is not None:
            reply = Reply(request, stream.writer)
            if not await self._answer(stream, request, reply):
                stream.writer.transport.abort()
                return
            if not reply.keep_alive:
                return

    async def _answer(self, stream: Stream, request: Request, reply: Reply) -> bool:
        """Run the handler beside a look at the connection; False when the connection is to be cut."""
        work = asyncio.create_task(self._handled(request, reply), name=f"{request.method} {request.path}")
        gone = asyncio.create_task(stream.gone(), name="client")
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            self.aborted(request, reply)
            return False
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    async def _handled(self, request: Request, reply: Reply) -> bool:
        try:
            await self.handle(request, reply)
            return True
        except HttpFault as fault:
            if reply.status:
                return False
            if isinstance(fault.body, str):
                await reply.text(fault.status, fault.body)
            else:
                await reply.json(fault.status, fault.body, fault.headers)
            return True
        except Cut:
            return False
        except ConnectionError:
            self.aborted(request, reply)
            return False


@dataclass
class Answer:
    """What a server answered to us; its body is read piece by piece."""

    status: int
    headers: dict[str, str]
    _stream: Stream
    _left: int

    async def read(self, limit: int = _PIECE) -> bytes:
        """Return the next piece of the body; empty at its end. Raise ConnectionError when it is cut short."""
        if self._left < 0:
            return await self._stream.chunk()
        if not self._left:
            return b""
        data = await self._stream.some(min(limit, self._left))
        if not data:
            raise ConnectionError("unexpected EOF")
        self._left -= len(data)
        return data

    async def body(self) -> bytes:
        """Return the whole body."""
        pieces = []
        while piece := await self.read():
            pieces.append(piece)
        return b"".join(pieces)


@asynccontextmanager
async def asked(
    method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> AsyncIterator[Answer]:
    """Send a request on a connection of its own and yield the answer."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    context = ssl.create_default_context() if secure else None
    port = parts.port or (443 if secure else 80)
    reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=context)
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        lines = [f"{method} {target} HTTP/1.1", f"Host: {parts.netloc}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        lines += [f"Content-Length: {len(body)}"] if body else []
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        stream = Stream(reader, writer)
        words = (await stream.line()).split()
        if len(words) < 2:
            raise ConnectionError("unexpected EOF")
        found = await stream.headers()
        left = -1 if "chunked" in found.get("transfer-encoding", "") else int(found.get("content-length", "0"))
        yield Answer(int(words[1]), found, stream, 0 if method == "HEAD" else left)
    finally:
        writer.transport.abort()
        with suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()
