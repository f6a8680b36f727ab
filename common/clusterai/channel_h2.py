"""Channels for phones: gRPC over h2 and Python's own TLS, in less than half of grpcio's memory.

Sources: gRPC's PROTOCOL-HTTP2.md (headers, message prefix, trailers), RFC 9113 (frames).
It is not grpclib, since that loses the last message of a call that the server ends (docs/decisions/phones.md).
"""

import asyncio
import contextlib
import ssl
import tempfile
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

from google.protobuf.message import DecodeError
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, ResponseReceived, StreamEnded, StreamReset, TrailersReceived, WindowUpdated
from h2.exceptions import H2Error

from clusterai.channel import Method, Patience, Trust
from clusterai.errors import ClusterAIError, TimedOut, Unreachable
from clusterai.remote import MAX_ANSWER_BYTES, SERVER_NAME, meaning, no_answer, split_address

_ANSWER_SECONDS = 10.0  # to a ping
_CLOSE_SECONDS = 0.2  # for the other side's goodbye, which gRPC's servers leave out
_FRAME_HEAD, _MESSAGE_HEAD, _GOAWAY, _LARGEST_FRAME = 9, 5, 7, 1 << 14
_CLOSED = "it was closed here"
_STATUSES = (  # by their numbers
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip


class H2Channel:
    """A connection of HTTP/2."""

    def __init__(self, address: str, trust: Trust, patience: Patience) -> None:
        self.address = address
        self._trust, self._patience = trust, patience
        self._connecting = asyncio.Lock()
        self._connection: _Connection | None = None
        self._failure: Unreachable | None = None

    def stream(self, method: Method, limit_seconds: float | None = None) -> "H2Stream":
        """Begin a call that may last so long."""
        return H2Stream(self, method, limit_seconds)

    async def call(self, method: Method, request: Any, limit_seconds: float) -> Any:
        """Return the answer."""
        stream = self.stream(method, limit_seconds)
        try:
            await stream.write(request, last=True)
            answer = await stream.read()
            if answer is None or await stream.read() is not None:
                raise meaning("INTERNAL", "it did not send one answer", {}, self.address)
        finally:
            stream.cancel()
        return answer

    async def close(self) -> None:
        """End all calls and the connection."""
        self._failure = no_answer(self.address, _CLOSED)
        if self._connection is not None:
            await self._connection.close()

    async def connected(self) -> "_Connection":
        """Return the connection; raise Unreachable."""
        async with self._connecting:
            if self._failure is not None:
                raise self._failure
            if self._connection is None:
                try:
                    self._connection = await self._connect()
                except (OSError, TimeoutError, ValueError) as error:
                    self._failure = no_answer(self.address, _reason(error) or "no TLS connection in time")
                    raise self._failure from error
            return self._connection

    async def _connect(self) -> "_Connection":
        host, port = split_address(self.address, 0)
        loop, limit = asyncio.get_running_loop(), self._patience.handshake
        async with asyncio.timeout(limit):
            transport, connection = await loop.create_connection(
                lambda: _Connection(self.address, self._patience.keepalive), host, port,
                ssl=client_context(self._trust), server_hostname=SERVER_NAME,
                ssl_handshake_timeout=limit, ssl_shutdown_timeout=_CLOSE_SECONDS,
            )
        if transport.get_extra_info("ssl_object").selected_alpn_protocol() != "h2":
            transport.abort()
            raise ConnectionError("it does not speak HTTP/2")
        return connection


class H2Stream:
    """One call: requests out; answers, their end and its status in."""

    def __init__(self, channel: H2Channel, method: Method, limit_seconds: float | None) -> None:
        self._channel, self._method, self._limit = channel, method, limit_seconds
        self._deadline = None if limit_seconds is None else asyncio.get_running_loop().time() + limit_seconds
        self._connection: _Connection | None = None
        self._id = 0
        self._unsent, self._received, self._headers = bytearray(), bytearray(), dict[str, str]()
        self._inbox = asyncio.Queue[Any]()  # messages, then None
        self._failure: ClusterAIError | None = None
        self._over = False
        self.window_grown = asyncio.Event()

    async def write(self, message: Any, *, last: bool = False) -> bool:
        """Send a message; False when the call has ended."""
        try:
            async with asyncio.timeout_at(self._deadline):
                if self._connection is None:
                    await self._begin()
                return await self._send(message.SerializeToString(), last)
        except ClusterAIError as error:
            self.end(error)
        except TimeoutError:
            self.end(self._too_late())
        return False

    async def read(self) -> Any:
        """Return the next message; None when the other side ended the call well."""
        try:
            async with asyncio.timeout_at(None if self._over else self._deadline):
                message = await self._inbox.get()
        except TimeoutError:
            self.end(self._too_late())
            return await self.read()
        if message is None:
            self._inbox.put_nowait(None)  # for who reads on
            if self._failure is not None:
                raise self._failure
        return message

    def cancel(self) -> None:
        """Give the call up."""
        self.end(None)

    def end(self, failure: ClusterAIError | None) -> None:
        """It is over; the first reason counts."""
        if self._over:
            return
        self._over, self._failure = True, failure
        self._inbox.put_nowait(None)
        self.window_grown.set()
        if self._connection is not None:
            self._connection.forget(self._id)

    def received(self, event: Event) -> None:
        """Take what came for this call."""
        if isinstance(event, ResponseReceived | TrailersReceived):
            self._headers |= _headers(event.headers)
        elif isinstance(event, DataReceived):
            self._received += event.data
            self._take_messages()
        elif isinstance(event, WindowUpdated):
            self.window_grown.set()
        elif isinstance(event, StreamReset):
            self.end(no_answer(self._channel.address, f"it broke the call off ({event.error_code})"))
        elif isinstance(event, StreamEnded):
            self.end(self._told())

    def _take_messages(self) -> None:
        """Cut what came into messages."""
        data = self._received
        while len(data) >= _MESSAGE_HEAD and not self._over:
            size = _MESSAGE_HEAD + int.from_bytes(data[1:_MESSAGE_HEAD], "big")
            if data[0] or size > MAX_ANSWER_BYTES:
                self.end(meaning("INTERNAL", "it sent what this version cannot read", {}, self._channel.address))
            elif len(data) < size:
                return
            else:
                self._take(bytes(data[_MESSAGE_HEAD:size]))
                del data[:size]

    def _take(self, message: bytes) -> None:
        try:
            self._inbox.put_nowait(self._method.response.FromString(message))
        except (DecodeError, ValueError):
            self.end(meaning("INTERNAL", "it sent a message that is none", {}, self._channel.address))

    def _told(self) -> ClusterAIError | None:
        """What the headers and trailers say of how it ended."""
        code, address = self._headers.get("grpc-status", ""), self._channel.address
        if code == "0":
            return None
        if code.isdecimal() and int(code) < len(_STATUSES):
            sentence = unquote(self._headers.get("grpc-message", ""))
            return meaning(_STATUSES[int(code)], sentence, self._headers, address)
        return meaning("UNKNOWN", f"no gRPC answers there (status {self._headers.get(':status', 'none')})", {}, address)

    async def _begin(self) -> None:
        connection = await self._channel.connected()
        headers = [
            (":method", "POST"), (":scheme", "https"), (":path", self._method.path), (":authority", SERVER_NAME),
            ("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", "clusterai-agent"),
        ]  # fmt: skip
        if self._limit is not None:
            headers.insert(4, ("grpc-timeout", f"{int(self._limit * 1000)}m"))
        if not self._over:
            self._id, self._connection = connection.begin(self, headers), connection

    async def _send(self, message: bytes, last: bool) -> bool:
        """Send a message after what is left of those before: who stops waiting half-way breaks nothing."""
        self._unsent += b"\0" + len(message).to_bytes(4, "big") + message
        while self._unsent and not self._over and self._connection is not None:
            room = self._connection.room(self._id)
            if room > 0:
                data = bytes(self._unsent[:room])
                del self._unsent[:room]
                self._connection.send(self._id, data, last=last and not self._unsent)
            else:
                self.window_grown.clear()
                await self.window_grown.wait()
        return not self._unsent

    def _too_late(self) -> TimedOut:
        return TimedOut(what=f"the call to {self._channel.address}", limit="allowed")


class _Connection(asyncio.Protocol):
    """HTTP/2 on one TLS connection."""

    def __init__(self, address: str, keepalive_seconds: float) -> None:
        self._address, self._keepalive = address, keepalive_seconds
        self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self._streams: dict[int, H2Stream] = {}
        self._buffer = bytearray()
        self._full, self._going = False, ""  # whether the transport's buffer is; why there is no new call
        self._heard, self._asked = 0.0, False
        self._timer: asyncio.TimerHandle | None = None
        self._lost = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self._transport, self._loop = transport, asyncio.get_running_loop()
        self._h2.initiate_connection()
        self._flush()
        self._heard = self._loop.time()
        self._timer = self._loop.call_later(self._keepalive, self._look)

    def data_received(self, data: bytes) -> None:
        self._heard, self._asked = self._loop.time(), False
        self._buffer += data
        try:
            for frame in self._frames():
                if frame[3] == _GOAWAY:  # h2 would take no more after it; calls under way go on to their end
                    self._going = "it is shutting down"
                else:
                    for event in self._h2.receive_data(frame):
                        self._handle(event)
        except (H2Error, UnicodeError, ValueError) as error:
            self._lose(f"it does not speak HTTP/2 as expected: {error}")
            self._abort()
        self._flush()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost.set()
        self._lose(_reason(exc) if exc is not None else "it closed the connection")

    def begin(self, stream: H2Stream, headers: list[tuple[str, str]]) -> int:
        """Open a call and return its number; raise Unreachable where there can be none."""
        if self._going:
            raise no_answer(self._address, self._going)
        try:
            number = self._h2.get_next_available_stream_id()
            self._h2.send_headers(number, headers)
        except H2Error as error:
            raise no_answer(self._address, f"it takes no more calls: {error}") from error
        self._streams[number] = stream
        self._flush()
        return number

    def room(self, number: int) -> int:
        """Return how many bytes the call may send now."""
        if self._full:
            return 0
        return min(self._h2.local_flow_control_window(number), self._h2.max_outbound_frame_size)

    def send(self, number: int, data: bytes, *, last: bool) -> None:
        """Send bytes of a call."""
        self._h2.send_data(number, data, end_stream=last)
        self._flush()

    def forget(self, number: int) -> None:
        """A call is over here; what still comes for it means nothing."""
        if self._streams.pop(number, None) is not None and not self._lost.is_set():
            with contextlib.suppress(H2Error):  # both sides had ended it
                self._h2.reset_stream(number, ErrorCodes.CANCEL)
            self._flush()

    async def close(self) -> None:
        """End all calls and say goodbye, within a second."""
        self._lose(_CLOSED)
        if not self._lost.is_set():
            with contextlib.suppress(H2Error):
                self._h2.close_connection()  # the server closes then
            self._flush()
            self._transport.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5 * _CLOSE_SECONDS):
                await self._lost.wait()
        self._abort()

    def _frames(self) -> Iterable[bytes]:
        """Cut what came into frames: h2 tells nothing of those before one that it refuses."""
        while len(self._buffer) >= _FRAME_HEAD:
            length = int.from_bytes(self._buffer[:3], "big")
            if length > _LARGEST_FRAME:
                raise ValueError(f"a frame of {length} bytes")
            if len(self._buffer) < _FRAME_HEAD + length:
                return
            frame = bytes(self._buffer[: _FRAME_HEAD + length])
            del self._buffer[: _FRAME_HEAD + length]
            yield frame

    def _handle(self, event: Event) -> None:
        if isinstance(event, DataReceived) and event.flow_controlled_length:
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        number = getattr(event, "stream_id", None)
        if number in self._streams:
            self._streams[number].received(event)
        elif isinstance(event, WindowUpdated):
            self._wake()  # the connection's

    def _wake(self) -> None:
        for stream in self._streams.values():
            stream.window_grown.set()

    def _flush(self) -> None:
        if (data := self._h2.data_to_send()) and not self._lost.is_set():
            self._transport.write(data)

    def _abort(self) -> None:
        if not self._lost.is_set():  # asyncio of Python 3.11 fails on a transport that is gone
            self._transport.abort()

    def _look(self) -> None:
        """Ask a peer that was silent for long; give up one that does not answer."""
        silent = self._loop.time() - self._heard
        if self._asked:
            self._lose(f"no answer to a question within {_ANSWER_SECONDS:.0f} s")
            self._abort()
        elif silent < self._keepalive:
            self._timer = self._loop.call_later(self._keepalive - silent, self._look)
        else:
            self._asked = True
            self._h2.ping(bytes(8))
            self._flush()
            self._timer = self._loop.call_later(_ANSWER_SECONDS, self._look)

    def _lose(self, reason: str) -> None:
        """There is no connection any more, for this reason; the first one counts."""
        self._going = self._going or reason
        if self._timer is not None:
            self._timer.cancel()
        for stream in [*self._streams.values()]:
            stream.end(no_answer(self._address, reason))


def client_context(trust: Trust) -> ssl.SSLContext:
    """Return the TLS of one connection: the CA alone, and our certificate. OpenSSL takes that from a file only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=trust.ca_pem.decode("ascii"))
    context.set_alpn_protocols(["h2"])
    context.set_ecdh_curve("prime256v1")  # gRPC 1.51 takes no other; to begin with X25519 costs a round trip more
    if trust.key_pem is not None and trust.chain_pem is not None:
        with tempfile.NamedTemporaryFile(prefix="clusterai-") as file:  # for its owner alone
            file.write(trust.key_pem + b"\n" + trust.chain_pem)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def _headers(pairs: Iterable[tuple[Any, Any]]) -> dict[str, str]:
    return {bytes(name).decode(): bytes(value).decode(errors="replace") for name, value in pairs}


def _reason(error: BaseException) -> str:
    """What went wrong, for a person."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not of this cluster: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return str(error.reason or error).replace("_", " ").lower()
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
