"""One stream to the daemon: hello and welcome, heartbeats and status up, specs and requests down."""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from clusterai.channel import Channel, Method, Stream
from clusterai.errors import ClusterAIError, Status, Unreachable
from clusterai.v1.node_pb2 import (
    Farewell,
    Heartbeat,
    Hello,
    LogChunk,
    LogRequest,
    NodeSpec,
    NodeStatus,
    SessionRequest,
    SessionResponse,
    Welcome,
)
from clusterai.v1.types_pb2 import Sample

log = logging.getLogger(__name__)

OPEN_SECONDS = 20.0  # for connecting and the welcome: 2,000 agents that come back at once take 6 s of the server's CPU
_MOST_PATIENT = 4


def open_seconds(attempt: int) -> float:
    """Return how long the attempt (1, 2, …) may take.

    A starved server still works on handshakes that their callers gave up, and gets to none in time: each attempt waits
    longer than the one before.
    """
    return OPEN_SECONDS * min(2.0 ** min(max(attempt - 1, 0), 10), _MOST_PATIENT)
_SESSION = Method("/clusterai.v1.NodeService/Session", SessionRequest, SessionResponse)
_INTERVALS = (0.01, 300.0)
_STATUS_PAUSE = 0.2  # changes closer together than this travel as one


class EndReason(Enum):
    """Why a session is over."""

    LOST = "lost"
    SHUTDOWN = "the server is shutting down"
    REVOKED = "revoked"
    REPLACED = "replaced"


@dataclass(frozen=True)
class Ending:
    """How a session ended, in words for a person."""

    reason: EndReason
    detail: str = ""


class NotWelcome(ClusterAIError):
    code, status = "not-welcome", Status.FAILED
    message = "{target} answered the hello with {answer} in place of a welcome"
    hint = "both sides may run different versions: compare `clusteractl version` with `clusterai-agent --version`"


class Listener(Protocol):
    """Who acts on what comes down the stream."""

    def welcome_received(self, welcome: Welcome) -> None:
        """The daemon has taken the session."""

    def spec_received(self, spec: NodeSpec) -> None:
        """A new desired state."""

    def renewal_asked(self) -> None:
        """The daemon wants this node's certificate renewed now."""


class LogReader(Protocol):
    """Who answers requests for logs."""

    def answer(self, request: LogRequest) -> AsyncIterator[LogChunk]:
        """Yield the chunks, the last one with `done`."""


@dataclass(frozen=True)
class Reports:
    """Where a session takes from what it sends up."""

    hello: Callable[[], Hello]
    sample: Callable[[], Sample]
    status: Callable[[], NodeStatus]


class Session:
    """One stream. `open`, then `serve` until it ends, then `close`; never used again."""

    def __init__(
        self, channel: Channel, address: str, reports: Reports, listener: Listener, logs: LogReader
    ) -> None:
        self.channel, self.address = channel, address
        self._reports, self._listener, self._logs = reports, listener, logs
        self._call: Stream = channel.stream(_SESSION)
        self._status_changed = asyncio.Event()
        self._interval = 5.0
        self._wait: asyncio.Future[bool] | None = None
        self._log_tasks: dict[int, asyncio.Task[None]] = {}

    async def open(self, limit_seconds: float = OPEN_SECONDS) -> Welcome:
        """Say hello and wait for the welcome.

        Raises:
            Unreachable, RemoteError: no daemon of this cluster there, or it refused.
            NotWelcome: something else answered.
        """
        try:
            async with asyncio.timeout(limit_seconds):
                await self._call.write(SessionRequest(hello=self._reports.hello()))
                response = await self._call.read()  # it tells too why the hello could not be sent
        except TimeoutError as error:
            raise Unreachable(self.address, f"no welcome within {limit_seconds:.0f} s") from error
        return self._welcomed(response)

    def _welcomed(self, response: Any) -> Welcome:
        kind = response.WhichOneof("message") if response is not None else "the end of the stream"
        if kind == "farewell":
            raise Dismissed(_ending(response.farewell))
        if kind != "welcome":
            raise NotWelcome(target=self.address, answer=kind)
        welcome: Welcome = response.welcome
        self._set_interval(welcome.heartbeat_interval_seconds)
        self._listener.welcome_received(welcome)
        if welcome.HasField("spec"):
            self._listener.spec_received(welcome.spec)
        return welcome

    async def serve(self) -> Ending:
        """Keep the conversation going until either side ends it."""
        async with asyncio.TaskGroup() as tasks:
            senders = [
                tasks.create_task(self._send_heartbeats(), name="heartbeats"),
                tasks.create_task(self._send_statuses(), name="statuses"),
            ]
            try:
                return await self._receive(tasks)
            finally:
                for task in (*senders, *self._log_tasks.values()):
                    task.cancel()

    async def close(self) -> None:
        """End the stream and its channel."""
        self._call.cancel()
        await self.channel.close()

    def status_changed(self) -> None:
        """Send the node's status soon."""
        self._status_changed.set()

    async def _receive(self, tasks: asyncio.TaskGroup) -> Ending:
        while True:
            try:
                response = await self._call.read()
            except ClusterAIError as error:
                return Ending(EndReason.LOST, str(error))
            if response is None:
                return Ending(EndReason.LOST, f"{self.address} closed the session")
            kind = response.WhichOneof("message")
            if kind == "farewell":
                return _ending(response.farewell)
            self._received(kind, response, tasks)

    def _received(self, kind: str | None, response: SessionResponse, tasks: asyncio.TaskGroup) -> None:
        match kind:
            case "spec":
                self._listener.spec_received(response.spec)
            case "heartbeat_interval":
                self._set_interval(response.heartbeat_interval.heartbeat_interval_seconds)
            case "renew_now":
                self._listener.renewal_asked()
            case "log_request":
                self._log_requested(response.log_request, tasks)
            case "log_cancel":
                self._log_cancelled(response.log_cancel.request_id)
            case "welcome":
                self._set_interval(response.welcome.heartbeat_interval_seconds)
            case _:
                log.info("the server sent a message that this version does not know")

    async def _send_heartbeats(self) -> None:
        """Send a sample at the server's interval, the first at once."""
        sequence = 0
        while True:
            sequence += 1
            heartbeat = Heartbeat(sequence=sequence, sample=self._reports.sample())
            if not await self._call.write(SessionRequest(heartbeat=heartbeat)):
                return
            wait = self._interval
            while await self._interval_changed_within(wait):
                wait = random.uniform(0, self._interval)  # noqa: S311  all are told at once, not heard at once

    async def _interval_changed_within(self, seconds: float) -> bool:
        """Wait so long; True at once when the server sets another interval."""
        loop = asyncio.get_running_loop()
        self._wait = loop.create_future()
        timer = loop.call_later(seconds, _settle, self._wait, False)
        try:
            return await self._wait
        finally:
            timer.cancel()

    async def _send_statuses(self) -> None:
        while True:
            await self._status_changed.wait()
            self._status_changed.clear()
            if not await self._call.write(SessionRequest(status=self._reports.status())):
                return
            await asyncio.sleep(_STATUS_PAUSE)

    def _log_requested(self, request: LogRequest, tasks: asyncio.TaskGroup) -> None:
        self._log_cancelled(request.request_id)
        task = tasks.create_task(self._send_logs(request), name=f"logs {request.request_id}")
        self._log_tasks[request.request_id] = task
        task.add_done_callback(lambda done: self._log_ended(request.request_id, done))

    def _log_ended(self, request_id: int, task: "asyncio.Task[None]") -> None:
        if self._log_tasks.get(request_id) is task:
            del self._log_tasks[request_id]

    def _log_cancelled(self, request_id: int) -> None:
        if task := self._log_tasks.pop(request_id, None):
            task.cancel()

    async def _send_logs(self, request: LogRequest) -> None:
        async with contextlib.aclosing(self._logs.answer(request)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                if not await self._call.write(SessionRequest(log_chunk=chunk)):
                    return

    def _set_interval(self, seconds: float) -> None:
        interval = min(max(seconds, _INTERVALS[0]), _INTERVALS[1])
        if seconds > 0 and interval != self._interval:
            self._interval = interval
            if self._wait is not None:
                _settle(self._wait, True)


class Dismissed(ClusterAIError):
    """The daemon said farewell in place of a welcome."""

    code, status = "dismissed", Status.DENIED
    message = "the server ended the session: {detail}"

    def __init__(self, ending: Ending) -> None:
        super().__init__(detail=ending.detail or ending.reason.value)
        self.ending = ending


def _settle(wait: "asyncio.Future[bool]", result: bool) -> None:
    if not wait.done():
        wait.set_result(result)


def _ending(farewell: Farewell) -> Ending:
    reasons = {
        Farewell.REASON_REVOKED: EndReason.REVOKED,
        Farewell.REASON_REPLACED: EndReason.REPLACED,
        Farewell.REASON_SHUTDOWN: EndReason.SHUTDOWN,
    }
    return Ending(reasons.get(farewell.reason, EndReason.LOST), farewell.detail)
