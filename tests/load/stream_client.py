"""A session's stream as the server sees it, at a tenth of a gRPC client's cost: TLS by OpenSSL, HTTP/2 frames by hand.

It is what gRPC's own client sends: a full mutual TLS handshake, preface, settings, one request, one DATA frame for each
message, answers to settings and pings, a ping after a silence. It speaks to this project's servers only, so it reads no
header: a stream that ends is over, whatever its trailers say.

Sources: RFC 9113 (frames), RFC 7541 (header literals), gRPC's PROTOCOL-HTTP2.md (message prefix, request headers).
"""

import asyncio
import socket
import ssl
from collections.abc import Callable

from clusterai.remote import SERVER_NAME
from clusterai.v1.node_pb2 import SessionResponse

KEEPALIVE_SECONDS = 20.0  # as clusterai.rpc has it for agents
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_ACK = _END_STREAM = 1
_END_HEADERS = 4
_STREAM = 1
_FRAME_HEAD, _MESSAGE_HEAD = 9, 5
_FIRST_WINDOW = 65535  # RFC 9113, 6.9.2
_INITIAL_WINDOW_SIZE = 4  # its number among the settings
_OUR_WINDOW = 4 << 20


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _text(value: str) -> bytes:
    return bytes((len(value),)) + value.encode()


def _opening() -> bytes:
    """Preface, settings, the connection's window, and the request's headers: literals, added to the table."""
    names = {":path": 4, ":authority": 1, "content-type": 31, "user-agent": 58}  # RFC 7541, appendix A
    headers = {
        ":path": "/clusterai.v1.NodeService/Session",
        ":authority": SERVER_NAME,
        "te": "trailers",
        "content-type": "application/grpc",
        "user-agent": "grpc-python-asyncio/1.51.1 grpc-c/29.0.0 (linux; chttp2)",
        "grpc-accept-encoding": "identity, deflate, gzip",
    }
    block = b"\x83\x87"  # :method POST, :scheme https
    for name, value in headers.items():
        block += bytes((0x40 | names.get(name, 0),)) + (b"" if name in names else _text(name)) + _text(value)
    settings = _INITIAL_WINDOW_SIZE.to_bytes(2, "big") + _OUR_WINDOW.to_bytes(4, "big")
    return b"".join((
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        _frame(_SETTINGS, 0, 0, settings),
        _frame(_WINDOW_UPDATE, 0, 0, _OUR_WINDOW.to_bytes(4, "big")),
        _frame(_HEADERS, _END_HEADERS, _STREAM, block),
    ))


_OPENING = _opening()


class Stream:
    """One connection with one call of NodeService.Session. `over` is done when either has ended.

    It reads and writes its TLS socket itself: asyncio's own TLS, in Python, costs a third of a handshake more.
    """

    def __init__(self, tls: ssl.SSLSocket, received: Callable[[SessionResponse], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self.over: asyncio.Future[str] = self._loop.create_future()
        self._tls, self._received = tls, received
        self._unread, self._messages = b"", b""
        self._connection_window, self._stream_window, self._initial_window = (_FIRST_WINDOW,) * 3
        self._read_at = 0.0

    @classmethod
    async def open(
        cls, address: str, context: ssl.SSLContext, hello: bytes, received: Callable[[SessionResponse], None]
    ) -> "Stream":
        """Shake hands and send the hello; raise OSError when that fails."""
        host, _, port = address.rpartition(":")
        plain = socket.socket()
        try:
            plain.setblocking(False)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().sock_connect(plain, (host, int(port)))
            tls = context.wrap_socket(plain, server_hostname=SERVER_NAME, do_handshake_on_connect=False)
        finally:
            plain.close()  # nothing, once TLS has it
        stream = cls(tls, received)
        try:
            await stream._shake_hands()
            stream.send(hello, opening=_OPENING)
        except BaseException:
            tls.close()
            raise
        return stream

    async def _shake_hands(self) -> None:
        done = self._loop.create_future()

        def step() -> None:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                return
            except OSError as error:
                if not done.done():
                    done.set_exception(error)
                return
            if not done.done():
                done.set_result(None)

        self._loop.add_reader(self._tls, step)
        try:
            step()
            await done
        finally:
            self._loop.remove_reader(self._tls)
        self._read_at = self._loop.time()
        self._loop.add_reader(self._tls, self._readable)

    def send(self, data: bytes, *, opening: bytes = b"") -> None:
        """Send a serialised message; the server has to keep the window open."""
        body = b"\0" + len(data).to_bytes(4, "big") + data
        self._connection_window -= len(body)
        self._stream_window -= len(body)
        if min(self._connection_window, self._stream_window) < 0:
            self._end("the server does not read what is sent to it")
            return
        self._write(opening + _frame(_DATA, 0, _STREAM, body))

    def ping_after_silence(self) -> None:
        """Ask for a sign of life when nothing came for long."""
        now = self._loop.time()
        if now - self._read_at > KEEPALIVE_SECONDS:
            self._read_at = now
            self._write(_frame(_PING, 0, 0, bytes(8)))

    def close(self) -> None:
        """Drop the connection."""
        self._end("closed")

    def _readable(self) -> None:
        """Take what has come."""
        try:
            data = self._tls.recv(1 << 16)
            while self._tls.pending():
                data += self._tls.recv(1 << 16)
        except ssl.SSLWantReadError:
            return
        except OSError as error:
            self._end(str(error))
            return
        if data:
            self._data_received(data)
        else:
            self._end("the connection was closed")

    def _write(self, data: bytes) -> None:
        try:
            sent = self._tls.send(data)
        except OSError as error:  # also when the kernel has no room: the server does not read
            self._end(str(error))
            return
        if sent < len(data):
            self._end("the server does not read what is sent to it")

    def _data_received(self, data: bytes) -> None:
        """Take the frames that are complete."""
        self._read_at = self._loop.time()
        unread, at = self._unread + data, 0
        while len(unread) - at >= _FRAME_HEAD:
            end = at + _FRAME_HEAD + int.from_bytes(unread[at : at + 3], "big")
            if len(unread) < end:
                break
            self._frame_received(unread[at + 3], unread[at + 4], unread[at + 5 : at + 9], unread[at + 9 : end])
            at = end
        self._unread = unread[at:]

    def _frame_received(self, kind: int, flags: int, stream: bytes, payload: bytes) -> None:
        if kind == _DATA:
            self._body_received(payload)
        elif kind == _WINDOW_UPDATE:
            self._window_grew(int.from_bytes(payload, "big"), of_stream=any(stream))
        elif kind == _PING and not flags & _ACK:
            self._write(_frame(_PING, _ACK, 0, payload))
        elif kind == _SETTINGS and not flags & _ACK:
            self._settings_received(payload)
        if kind in (_RESET, _GOAWAY) or (kind in (_DATA, _HEADERS) and flags & _END_STREAM):
            self._end("the server ended the stream")

    def _body_received(self, payload: bytes) -> None:
        self._messages += payload
        while len(self._messages) >= _MESSAGE_HEAD:
            end = _MESSAGE_HEAD + int.from_bytes(self._messages[1:5], "big")
            if len(self._messages) < end:
                return
            message, self._messages = self._messages[_MESSAGE_HEAD:end], self._messages[end:]
            self._received(SessionResponse.FromString(message))

    def _window_grew(self, by: int, *, of_stream: bool) -> None:
        if of_stream:
            self._stream_window += by
        else:
            self._connection_window += by

    def _settings_received(self, payload: bytes) -> None:
        for at in range(0, len(payload), 6):
            if int.from_bytes(payload[at : at + 2], "big") == _INITIAL_WINDOW_SIZE:
                size = int.from_bytes(payload[at + 2 : at + 6], "big")
                self._stream_window += size - self._initial_window
                self._initial_window = size
        self._write(_frame(_SETTINGS, _ACK, 0))

    def _end(self, why: str) -> None:
        if not self.over.done():
            self.over.set_result(why)
            self._loop.remove_reader(self._tls)
            self._tls.close()
