"""Runs inside the Dask scheduler (`--preload`) and obeys the daemon: holds, retires and closes workers, tells of them.

It is loaded by path into the compute environment, where no other module of ours is: only the standard library and
distributed here. Its periodic work is one look at the workers twice a second, while the daemon listens.
"""

import asyncio
import contextlib
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin

log = logging.getLogger("distributed.clusterai")

_PUSH_SECONDS = 0.5
_BEAT_SECONDS = 0.1
_PROGRESS_SECONDS = 0.5
_LINE_LIMIT = 1 << 20
_BUFFER_LIMIT = 4 << 20
_CONNECTIONS, _REQUESTS, _NAMES = 8, 32, 10_000
_DEADLINE_SECONDS = 3600.0
_MOVE_SECONDS = 60.0  # at least, for results: without them the work was for nothing
_SETTLE_SECONDS = 30.0  # for a worker to say that it starts no more tasks


class Holds(SchedulerPlugin):  # type: ignore[misc]
    """Workers, by name, that get no new tasks; what they have they finish. Lasts when a worker comes back.

    For the scheduler alone they are `paused`. A worker may pause itself (memory): what it said last is kept, and
    counts again when the hold ends.
    """

    name = "clusterai-holds"

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self.names: frozenset[str] = frozenset()
        self.said: dict[str, str] = {}
        self._original = scheduler.stream_handlers["worker-status-change"]
        scheduler.stream_handlers["worker-status-change"] = self._status_change
        scheduler.add_plugin(self)

    def set(self, names: Iterable[str]) -> None:
        """Hold exactly these, registered or not."""
        self.names = frozenset(names)
        for worker in list(self._scheduler.workers.values()):
            self._apply(worker)

    def add_worker(self, scheduler: Any, worker: str) -> None:
        """Dask's hook: runs before the new worker is given its first task."""
        self._apply(scheduler.workers[worker])

    def remove_worker(self, scheduler: Any, worker: str, **_: Any) -> None:  # noqa: ARG002
        """Dask's hook."""
        self.said.pop(worker, None)

    def _apply(self, worker: Any) -> None:
        said = self.said.get(worker.address, "running")
        if str(worker.name) in self.names:
            if worker.status == Status.running:
                self._turn(worker, "paused")
        elif worker.status == Status.paused and said == "running":
            self._turn(worker, "running")

    def _turn(self, worker: Any, status: str) -> None:
        self._scheduler.handle_worker_status_change(status, worker, f"clusterai-hold-{time.time()}")

    def _status_change(self, status: str, worker: str, stimulus_id: str) -> None:
        self.said[worker] = status
        known = self._scheduler.workers.get(worker)
        held = known is not None and str(known.name) in self.names
        self._original("paused" if held and status == "running" else status, worker, stimulus_id)


Progress = Callable[[dict[str, int]], None]


class Retirement:
    """Takes workers out so that nothing computed is lost: running tasks end, results move, then the workers close."""

    def __init__(self, scheduler: Any, holds: Holds, names: Iterable[str], progress: Progress) -> None:
        self._scheduler, self._holds, self._progress = scheduler, holds, progress
        self.names = frozenset(names)
        self._workers = [worker for worker in scheduler.workers.values() if str(worker.name) in self.names]
        self._beats: dict[str, tuple[float, int]] = {}
        self._total = 0
        self._told: dict[str, int] = {}

    async def run(self, deadline_seconds: float) -> dict[str, Any]:
        """Retire them and return what a reply says; what still runs at the deadline runs again elsewhere."""
        deadline = time.monotonic() + deadline_seconds
        self._holds.set(self._holds.names | self.names)
        reporting = asyncio.create_task(self._report(), name="clusterai retire progress")
        retired = False
        try:
            self._tell_workers("closing_gracefully")
            await self._tasks_finished(deadline)
            interrupted = sum(self._running(worker) for worker in self._present())
            async with asyncio.timeout(max(deadline - time.monotonic(), _MOVE_SECONDS)):
                await self._scheduler.retire_workers(workers=self._addresses(), close_workers=True, remove=True)
            retired = not self._present()
            self._tell_progress()
        finally:
            reporting.cancel()
            if not retired:
                self._tell_workers("running")
        if not retired:
            kept = ", ".join(sorted(str(worker.name) for worker in self._present()))
            return {"ok": False, "error": f"what {kept} holds has nowhere to go: no other worker can take it"}
        return {"ok": True, "interrupted": interrupted}

    def _present(self) -> list[Any]:
        return [worker for worker in self._workers if self._scheduler.workers.get(worker.address) is worker]

    def _addresses(self) -> list[str]:
        return [worker.address for worker in self._present()]

    def _tell_workers(self, status: str) -> None:
        """Have the workers start no task (`closing_gracefully`; from `paused` they wake by themselves), or go on."""
        for worker in self._present():
            stimulus = f"clusterai-retire-{time.time()}"
            if status == "closing_gracefully":
                self._scheduler.handle_worker_status_change(status, worker, stimulus)
            message = {"op": "worker-status-change", "status": status, "stimulus_id": stimulus}
            with contextlib.suppress(KeyError, OSError):  # it is leaving just now
                self._scheduler.stream_comms[worker.address].send(message)

    async def _tasks_finished(self, deadline: float) -> None:
        """Wait until no task runs. Those that wait for a thread are given to others when the worker is gone."""
        settle = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < deadline:
            present = self._present()
            if all(self._idle(worker, settled=time.monotonic() > settle) for worker in present):
                return
            await asyncio.sleep(_BEAT_SECONDS)

    def _idle(self, worker: Any, *, settled: bool) -> bool:
        """Whether nothing runs there: surely so from the second heartbeat after the worker said that it has stopped.

        The first one may have been on its way already.
        """
        if not worker.processing:
            return True
        if self._holds.said.get(worker.address) != "closing_gracefully" and not settled:
            return False
        seen, beats = self._beats.get(worker.address, (worker.last_seen, 0))
        beats += seen != worker.last_seen
        self._beats[worker.address] = (worker.last_seen, beats)
        return (beats > 1 or settled) and not self._running(worker)

    def _running(self, worker: Any) -> int:
        """How many tasks it computes now, by its last heartbeat."""
        return sum(task in worker.processing for task in worker.executing)

    async def _report(self) -> None:
        while True:
            self._tell_progress()
            await asyncio.sleep(_PROGRESS_SECONDS)

    def _tell_progress(self) -> None:
        present = self._present()
        leaving = set(present)
        left = sum(task.who_has <= leaving for worker in present for task in worker.has_what if task.who_has)
        self._total = max(self._total, left)
        running = sum(len(worker.processing) for worker in present)
        counts = {"running": running, "moved": self._total - left, "total": self._total}
        if counts != self._told:
            self._told = counts
            self._progress(counts)


class BadRequest(Exception):
    """A request that makes no sense; its text is the reply's error."""


@dataclass(eq=False)
class _Connection:
    """One peer on the control socket, and the long requests that it waits for."""

    writer: asyncio.StreamWriter
    requests: dict[int, "asyncio.Task[None]"] = field(default_factory=dict)

    def send(self, message: dict[str, Any]) -> None:
        """Send a line; a peer that does not read is dropped rather than kept in memory."""
        if self.writer.transport.get_write_buffer_size() > _BUFFER_LIMIT:
            self.writer.transport.abort()
        elif not self.writer.is_closing():
            self.writer.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    async def close(self) -> None:
        """Give up what it waits for, and the connection."""
        going = tuple(self.requests.values())
        for request in going:
            request.cancel()
        await asyncio.gather(*going, return_exceptions=True)
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


class Control:
    """The scheduler's control socket: JSON lines. Who may open the socket is decided by file permissions."""

    def __init__(self, scheduler: Any, path: Path) -> None:
        self._scheduler, self._path = scheduler, path
        self._holds = Holds(scheduler)
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self._pushing: asyncio.Task[None] | None = None
        self._pushed: dict[str, Any] = {}
        self._operations: dict[str, Callable[[list[str], dict[str, Any], Progress], Awaitable[dict[str, Any]]]]
        self._operations = {"hold": self._hold, "retire": self._retire, "close": self._close, "ping": self._ping}

    async def start(self) -> None:
        """Listen, for our user and group only."""
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self._path, limit=_LINE_LIMIT)
        self._path.chmod(0o660)
        self._pushing = asyncio.create_task(self._push(), name="clusterai push")

    async def stop(self) -> None:
        """Close the socket and every connection."""
        if self._server is not None and self._pushing is not None:
            self._server.close()
            self._pushing.cancel()
        await asyncio.gather(*(connection.close() for connection in tuple(self._connections)))
        self._path.unlink(missing_ok=True)

    async def _push(self) -> None:
        while True:
            await asyncio.sleep(_PUSH_SECONDS)
            if self._connections:
                now = self._snapshot()
                if now != self._pushed:
                    self._pushed = now
                    for connection in tuple(self._connections):
                        connection.send(now)

    def _snapshot(self) -> dict[str, Any]:
        return {"event": "workers", "workers": [_described(worker) for worker in self._scheduler.workers.values()]}

    def _about(self) -> dict[str, Any]:
        board = self._scheduler.services.get("dashboard")
        return {
            "event": "scheduler",
            "address": self._scheduler.address,
            "dashboard_port": board.port if board is not None else 0,
            "process_id": os.getpid(),
        }

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(writer)
        if len(self._connections) >= _CONNECTIONS:
            await connection.close()
            return
        self._connections.add(connection)
        try:
            connection.send(self._about())
            connection.send(self._snapshot())
            while line := await reader.readline():
                self._received(connection, line)
        except (OSError, ValueError) as error:  # ValueError: a line over the limit
            log.warning("closing a control connection: %s", error)
        finally:
            self._connections.discard(connection)
            await connection.close()

    def _received(self, connection: _Connection, line: bytes) -> None:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict) or type(message.get("id")) is not int:
            connection.send({"id": 0, "ok": False, "error": "not a request: a JSON object with an id"})
        elif message.get("op") == "cancel":
            if (request := connection.requests.get(_number(message.get("request")))) is not None:
                request.cancel()
            connection.send({"id": message["id"], "ok": True})
        elif len(connection.requests) >= _REQUESTS or message["id"] in connection.requests:
            connection.send({"id": message["id"], "ok": False, "error": "too many requests at once"})
        else:
            number = message["id"]
            request = asyncio.create_task(self._answer(connection, message), name="clusterai control request")
            connection.requests[number] = request
            request.add_done_callback(lambda _: connection.requests.pop(number, None))

    async def _answer(self, connection: _Connection, message: dict[str, Any]) -> None:
        number = message["id"]
        try:
            operation = self._operations.get(str(message.get("op")))
            if operation is None:
                raise BadRequest(f"unknown op {str(message.get('op'))[:40]!r}")
            reply = await operation(
                _names(message), message, lambda counts: connection.send({"id": number, "progress": counts})
            )
        except TimeoutError:
            reply = {"ok": False, "error": "results could not be moved in time"}
        except (BadRequest, OSError) as error:
            reply = {"ok": False, "error": str(error)}
        connection.send({"id": number, **reply})

    async def _hold(self, names: list[str], _: dict[str, Any], __: Progress) -> dict[str, Any]:
        self._holds.set(names)
        return {"ok": True}

    async def _retire(self, names: list[str], message: dict[str, Any], progress: Progress) -> dict[str, Any]:
        seconds = message.get("deadline_seconds", _DEADLINE_SECONDS)
        if type(seconds) not in (int, float) or not 0 <= seconds <= 31 * 86400:
            raise BadRequest("deadline_seconds must be 0 to 31 days")
        return await Retirement(self._scheduler, self._holds, names, progress).run(seconds)

    async def _close(self, names: list[str], _: dict[str, Any], __: Progress) -> dict[str, Any]:
        workers = [worker for worker in self._scheduler.workers.values() if str(worker.name) in names]
        for worker in workers:
            await self._scheduler.remove_worker(worker.address, stimulus_id=f"clusterai-close-{time.time()}")
        return {"ok": True, "closed": len(workers)}

    async def _ping(self, _: list[str], __: dict[str, Any], ___: Progress) -> dict[str, Any]:
        return {"ok": True}


def _number(value: Any) -> int:
    return value if type(value) is int else 0


def _names(message: dict[str, Any]) -> list[str]:
    names = message.get("workers", [])
    if not isinstance(names, list) or len(names) > _NAMES or not all(isinstance(name, str) for name in names):
        raise BadRequest(f"workers must be a list of at most {_NAMES} names")
    return names


def _described(worker: Any) -> dict[str, Any]:
    return {
        "name": str(worker.name),
        "address": worker.address,
        "threads": worker.nthreads,
        "memory_limit": worker.memory_limit,
        "processing": len(worker.processing),
        "nbytes": worker.nbytes,
        "status": worker.status.name,
    }


async def dask_setup(scheduler: Any) -> None:
    """Dask's hook, after the scheduler listens. Dask only logs what a hook raises, so a fault ends the process here."""
    path = os.environ["CLUSTERAI_CONTROL_SOCKET"]
    control = scheduler.clusterai_control = Control(scheduler, Path(path))
    try:
        await control.start()
    except OSError as error:
        raise SystemExit(f"clusterai: cannot listen on the control socket {path}: {error}") from error


async def dask_teardown(scheduler: Any) -> None:
    """Dask's hook, before the scheduler closes."""
    control = getattr(scheduler, "clusterai_control", None)
    if control is not None:
        await control.stop()
