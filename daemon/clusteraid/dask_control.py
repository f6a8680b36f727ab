"""The daemon's side of a scheduler's control socket. What comes from it is checked: users' code runs over there."""

import asyncio
import contextlib
import itertools
import json
import logging
import random
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusterai.errors import ClusterAIError, Status

log = logging.getLogger(__name__)

_LINE_LIMIT = 4 << 20
_WORKERS, _TEXT, _NUMBER = 10_000, 300, 1 << 62
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 2.0
_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 15.0
_LINE_SECONDS, _SHARE = 0.005, 4  # rest between lines, and for as many times as long as the last one took
_UNREAD_LIMIT = 8 << 20
LONGEST_RETIRE_SECONDS = 31 * 86400.0

Progress = Callable[[int, int, int], None]


class SchedulerAway(ClusterAIError):
    code, status = "scheduler-away", Status.UNREACHABLE
    message = "the scheduler does not answer on {socket}: {reason}"
    hint = "look at `clusteractl status` and at its log: `clusteractl logs --unit clusterai-scheduler@{pool}`"

    def __init__(self, socket: Path, reason: str) -> None:
        super().__init__(socket=socket, reason=reason, pool=socket.stem)


class SchedulerRefused(ClusterAIError):
    code, status = "scheduler-refused", Status.FAILED
    message = "the scheduler could not {op}: {reason}"
    hint = "`clusteractl worker list` shows what the workers hold"


class _Nonsense(Exception):
    """What came over the socket is not what a scheduler of ours says."""


@dataclass(frozen=True)
class Registered:
    """A worker that the scheduler knows. Sizes in bytes; `processing` counts its tasks."""

    name: str
    address: str
    threads: int
    memory_limit: int
    processing: int
    nbytes: int
    status: str


@dataclass
class _Request:
    """One that waits for its reply."""

    answer: "asyncio.Future[dict[str, Any]]"
    progress: Progress | None


class DaskControl:
    """Connected for as long as `run` runs and there is a scheduler; tells it again who is held after each connect."""

    def __init__(self, socket: Path, changed: Callable[[], None]) -> None:
        self._socket, self._changed = socket, changed
        self._writer: asyncio.StreamWriter | None = None
        self._held: tuple[str, ...] | None = None
        self._numbers = itertools.count(1)
        self._waiting: dict[int, _Request] = {}
        self.workers: Mapping[str, Registered] = {}
        self.dashboard_port = 0

    @property
    def connected(self) -> bool:
        """Whether `workers` is what the scheduler knows."""
        return self._writer is not None

    def hold(self, names: Collection[str]) -> None:
        """Give no new tasks to exactly these workers from now on, also after a restart of the scheduler."""
        self._held = tuple(sorted(names))
        self._send_hold()

    async def retire(
        self, names: Collection[str], progress: Progress, deadline_seconds: float = LONGEST_RETIRE_SECONDS
    ) -> None:
        """Let running tasks end, move results away, close the workers; a cancelled call puts the workers back to work.

        Raises:
            SchedulerAway: not connected, or not any more.
            SchedulerRefused: the results have nowhere to go.
        """
        message = {"op": "retire", "workers": sorted(names), "deadline_seconds": deadline_seconds}
        await self._request(message, progress, None)

    async def close_workers(self, names: Collection[str]) -> None:
        """End the workers at once; what they computed is computed again. Raises like `retire`."""
        await self._request({"op": "close", "workers": sorted(names)}, None, _ANSWER_SECONDS)

    async def run(self) -> None:
        """Stay connected, for ever."""
        attempt = 0
        while True:
            try:
                async with asyncio.timeout(_CONNECT_SECONDS):
                    reader, writer = await asyncio.open_unix_connection(self._socket, limit=_LINE_LIMIT)
            except (OSError, TimeoutError):
                attempt += 1
            else:
                attempt = 0
                await self._converse(reader, writer)
            delay = min(_FIRST_DELAY * 2.0 ** min(attempt, 10), _LONGEST_DELAY)
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reason = "it closed the connection"
        try:
            while line := await reader.readline():
                began = time.perf_counter()
                self._received(line, writer)
                spent = time.perf_counter() - began
                await asyncio.sleep(max(_LINE_SECONDS, _SHARE * spent))  # however much it says, others get their turn
        except (OSError, ValueError, RecursionError, _Nonsense) as error:
            reason = str(error)
            log.warning("dropping the connection to the scheduler: %s", reason)
        finally:
            self._disconnected(reason)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _disconnected(self, reason: str) -> None:
        self._writer, self.workers = None, {}
        for request in self._waiting.values():
            if not request.answer.done():
                request.answer.set_exception(SchedulerAway(self._socket, reason))
        self._changed()

    def _received(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        message = json.loads(line)
        if not isinstance(message, dict):
            raise _Nonsense("a line that is no JSON object")
        if message.get("event") == "workers":
            self.workers = _workers(message.get("workers"))
            if self._writer is None:
                self._writer = writer
                self._send_hold()
            self._changed()
        elif message.get("event") == "scheduler":
            self.dashboard_port = _number(message, "dashboard_port")
        elif type(message.get("id")) is int:
            self._answered(message)

    def _answered(self, message: dict[str, Any]) -> None:
        request = self._waiting.get(message["id"])
        if request is None:
            return
        counts = message.get("progress")
        if isinstance(counts, dict) and request.progress is not None:
            request.progress(*(_number(counts, key) for key in ("running", "moved", "total")))
        elif "ok" in message and not request.answer.done():
            request.answer.set_result(message)

    async def _request(self, message: dict[str, Any], progress: Progress | None, seconds: float | None) -> None:
        if self._writer is None:
            raise SchedulerAway(self._socket, "not connected")
        number = next(self._numbers)
        request = self._waiting[number] = _Request(asyncio.get_running_loop().create_future(), progress)
        try:
            self._send({"id": number, **message})
            async with asyncio.timeout(seconds):
                reply = await request.answer
        except TimeoutError as error:
            raise SchedulerAway(self._socket, "no answer in time") from error
        except asyncio.CancelledError:
            self._send({"id": next(self._numbers), "op": "cancel", "request": number})
            raise
        finally:
            del self._waiting[number]
        if reply["ok"] is not True:
            raise SchedulerRefused(op=message["op"], reason=str(reply.get("error", "it does not say why"))[:_TEXT])

    def _send_hold(self) -> None:
        if self._held is not None:
            self._send({"id": next(self._numbers), "op": "hold", "workers": self._held})

    def _send(self, message: dict[str, Any]) -> None:
        if self._writer is None or self._writer.is_closing():
            return
        if self._writer.transport.get_write_buffer_size() > _UNREAD_LIMIT:
            log.warning("the scheduler does not read what is sent to it; dropping the connection")
            self._writer.transport.abort()
        else:
            self._writer.write(json.dumps(message).encode() + b"\n")


def _workers(described: Any) -> dict[str, Registered]:
    if not isinstance(described, list) or len(described) > _WORKERS:
        raise _Nonsense(f"not a list of at most {_WORKERS} workers")
    return {worker.name: worker for worker in map(_worker, described)}


def _worker(described: Any) -> Registered:
    if not isinstance(described, dict):
        raise _Nonsense("a worker that is no JSON object")
    return Registered(
        name=_text(described, "name"),
        address=_text(described, "address"),
        threads=_number(described, "threads"),
        memory_limit=_number(described, "memory_limit"),
        processing=_number(described, "processing"),
        nbytes=_number(described, "nbytes"),
        status=_text(described, "status"),
    )


def _text(described: dict[str, Any], key: str) -> str:
    value = described.get(key)
    if not isinstance(value, str) or len(value) > _TEXT or not value.isprintable():
        raise _Nonsense(f"a worker's {key} is no short text")
    return value


def _number(described: dict[str, Any], key: str) -> int:
    value = described.get(key)
    if type(value) is not int or not 0 <= value < _NUMBER:
        raise _Nonsense(f"{key} is no count")
    return value
