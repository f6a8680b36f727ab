"""Log lines of a node, asked for and answered over its session; bounded in requests and in what waits to be read."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator
from itertools import count

from clusterai.errors import ClusterAIError, Status
from clusterai.v1.node_pb2 import LogCancel, LogChunk, LogRequest, SessionResponse
from clusterai.v1.types_pb2 import LogLine

_REQUEST_LIMIT = 8
_CHUNKS_WAITING = 64
_BYTES_WAITING = 4 << 20  # for each reader
_LINE_BYTES = 64  # what a line takes in memory besides its text: a message of 1 MiB can carry half a million empty ones
_ANSWER_SECONDS = 15.0


class TooManyReaders(ClusterAIError):
    code, status = "too-many-readers", Status.EXHAUSTED
    message = "{count} people read logs of {node_id} already"
    hint = "end one of the others, or read on the node itself: `journalctl -u UNIT`"


class NodeLogFailed(ClusterAIError):
    code, status = "node-log-failed", Status.FAILED
    message = "{node_id} cannot show its log: {reason}"
    hint = "read it on the node itself: `journalctl -u UNIT`"


class _Unread:
    """The chunks that wait for one reader, bounded in number and in bytes."""

    def __init__(self) -> None:
        self._chunks: asyncio.Queue[LogChunk] = asyncio.Queue()
        self._bytes = 0

    def add(self, chunk: LogChunk) -> bool:
        """Append a chunk and return True, if there is room for it."""
        size = _size(chunk)
        if self._chunks.qsize() >= _CHUNKS_WAITING or self._bytes + size > _BYTES_WAITING:
            return False
        self._bytes += size
        self._chunks.put_nowait(chunk)
        return True

    def end(self, reason: str) -> None:
        """Append the last chunk, whether there is room or not."""
        self._chunks.put_nowait(LogChunk(done=True, error=reason))

    async def next(self) -> LogChunk:
        """Return the oldest chunk, as soon as there is one."""
        chunk = await self._chunks.get()
        self._bytes -= _size(chunk)
        return chunk


class SessionLogs:
    """The open log requests of one session."""

    def __init__(self, node_id: str, send: Callable[[SessionResponse], None]) -> None:
        self._node_id, self._send, self._numbers = node_id, send, count(1)
        self._waiting: dict[int, _Unread] = {}

    async def read(self, unit: str, line_count: int, *, follow: bool) -> AsyncGenerator[list[LogLine], None]:
        """Yield log lines as they come, until the node says that there are no more.

        Raises:
            TooManyReaders: too many at once.
            NodeLogFailed: the node refused, did not answer, lost its session, or lines came faster than they were read.
        """
        with self._request() as (number, unread):
            request = LogRequest(request_id=number, unit=unit, line_count=line_count, follow=follow)
            self._send(SessionResponse(log_request=request))
            limit: float | None = _ANSWER_SECONDS
            while True:
                try:
                    async with asyncio.timeout(limit):
                        chunk = await unread.next()
                except TimeoutError as error:
                    raise self._failed("it did not answer in time") from error
                limit = None if follow else _ANSWER_SECONDS
                if chunk.lines:
                    yield list(chunk.lines)
                if chunk.error:
                    raise self._failed(chunk.error[:500])
                if chunk.done:
                    return

    def chunk_received(self, chunk: LogChunk) -> None:
        """Pass a chunk on to its reader; one that does not keep up is cut off, so that heartbeats never wait."""
        unread = self._waiting.get(chunk.request_id)
        if unread is not None and not unread.add(chunk):
            self._cut_off(chunk.request_id, "lines came faster than they were read")

    def close(self) -> None:
        """End all readers: the session is over."""
        for number in tuple(self._waiting):
            self._cut_off(number, "its session ended")

    def _cut_off(self, number: int, reason: str) -> None:
        self._waiting.pop(number).end(reason)

    @contextlib.contextmanager
    def _request(self) -> Iterator[tuple[int, _Unread]]:
        if len(self._waiting) >= _REQUEST_LIMIT:
            raise TooManyReaders(count=len(self._waiting), node_id=self._node_id)
        number = next(self._numbers)
        unread = self._waiting[number] = _Unread()
        try:
            yield number, unread
        finally:
            self._waiting.pop(number, None)
            self._send(SessionResponse(log_cancel=LogCancel(request_id=number)))

    def _failed(self, reason: str) -> NodeLogFailed:
        return NodeLogFailed(node_id=self._node_id, reason=reason)


def _size(chunk: LogChunk) -> int:
    return chunk.ByteSize() + _LINE_BYTES * len(chunk.lines)
