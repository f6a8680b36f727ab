"""Answers the daemon's requests for log lines of this node's units; bounded in number, length and memory."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from clusterai.errors import ClusterAIError
from clusterai.ids import UnitName
from clusterai.units import UnitsConfig
from clusterai.v1.node_pb2 import LogChunk, LogRequest
from clusterai.v1.types_pb2 import LogLine

if TYPE_CHECKING:
    from clusterai.journal import LogEntry

AGENT_UNIT = UnitName("clusterai-agent.service")
_UNIT = re.compile(r"clusterai-(agent|worker@[a-z0-9][a-z0-9-]{0,79})(\.service)?")
_STREAMS = 8
_LINES, _DEFAULT_LINES = 10_000, 100
_CHUNK_LINES, _MESSAGE_LIMIT = 50, 4096  # so that a chunk stays below the 1 MiB message limit
_CHUNK_SECONDS = 0.2


class LogStreams:
    """Reads logs, at most so many at a time."""

    def __init__(self, units: UnitsConfig) -> None:
        self._units = units
        self._running = 0

    async def answer(self, request: LogRequest) -> AsyncIterator[LogChunk]:
        """Yield the lines asked for, oldest first, then new ones when following; the last chunk says `done`."""
        refusal = self._refusal(request)
        if refusal:
            yield LogChunk(request_id=request.request_id, done=True, error=refusal)
            return
        self._running += 1
        error = ""
        try:
            async for lines in self._chunks(request):
                yield LogChunk(request_id=request.request_id, lines=lines)
        except ClusterAIError as failure:
            error = f"{failure}; {failure.advice}" if failure.advice else str(failure)
        finally:
            self._running -= 1
        yield LogChunk(request_id=request.request_id, done=True, error=error)

    def _refusal(self, request: LogRequest) -> str:
        if request.unit and not _UNIT.fullmatch(request.unit):
            return f"a node shows only the logs of clusterai-agent and clusterai-worker@…, not of {request.unit[:80]!r}"
        if self._running >= _STREAMS:
            return f"{_STREAMS} logs of this node are being read already; try again later"
        return ""

    async def _chunks(self, request: LogRequest) -> AsyncIterator[list[LogLine]]:
        """Gather lines for a moment, so that a busy log does not become a message for each line."""
        from clusterai.journal import read_log  # only where somebody reads logs

        count = min(request.line_count or _DEFAULT_LINES, _LINES)
        entries = read_log(_unit(request.unit), line_count=count, follow=request.follow, units=self._units)
        queue: _Queue = asyncio.Queue(_CHUNK_LINES)
        reading = asyncio.create_task(_fill(queue, entries), name="read log")
        try:
            async for lines in _gathered(queue):
                yield lines
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


@dataclass(frozen=True)
class _End:
    """The log is over, or could not be read further."""

    error: ClusterAIError | None = None


_Queue: TypeAlias = "asyncio.Queue[LogLine | _End]"


async def _fill(queue: _Queue, entries: "AsyncIterator[LogEntry]") -> None:
    end = _End()
    try:
        async with aclosing(entries) as opened:  # type: ignore[type-var]
            async for entry in opened:
                await queue.put(_line(entry))
    except ClusterAIError as error:
        end = _End(error)
    await queue.put(end)


async def _gathered(queue: _Queue) -> AsyncIterator[list[LogLine]]:
    """Yield lists of lines until the end; raise the reader's error after the lines before it."""
    while True:
        item = await queue.get()
        lines: list[LogLine] = []
        if queue.empty():
            await asyncio.sleep(_CHUNK_SECONDS)
        while isinstance(item, LogLine):
            lines.append(item)
            if queue.empty() or len(lines) >= _CHUNK_LINES:
                break
            item = queue.get_nowait()
        if lines:
            yield lines
        if isinstance(item, _End):
            if item.error is not None:
                raise item.error
            return


def _unit(text: str) -> UnitName:
    if not text:
        return AGENT_UNIT
    return UnitName(text if text.endswith(".service") else f"{text}.service")


def _line(entry: "LogEntry") -> LogLine:
    return LogLine(
        time_unix_seconds=entry.time, unit=entry.unit, priority=entry.priority, message=entry.message[:_MESSAGE_LIMIT]
    )
