"""The agents' live streams: one for each node, the newest wins; what goes down them, and when silence counts."""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import grpc

from clusterai import __version__
from clusterai.errors import BadRequest, ClusterAIError, Status
from clusterai.ids import Identity, IdentityKind, NodeId
from clusterai.v1.node_pb2 import (
    Farewell,
    HeartbeatInterval,
    Hello,
    NodeSpec,
    SessionRequest,
    SessionResponse,
    Welcome,
)
from clusteraid.config import SessionConfig
from clusteraid.nodes import NOTHING_MADE, Counter, Node, Nodes
from clusteraid.ports import EventLog
from clusteraid.registry import Heard, Link, SessionBroken, SessionOpened, Silent
from clusteraid.session_logs import SessionLogs

log = logging.getLogger(__name__)
Write = Callable[[SessionResponse], Awaitable[None]]
_TICK_SECONDS = 0.25
_RETURNS_PER_SECOND = 100.0  # 2,000 came back in 18.7 s on two busy processors (scripts/bench daemon)
_STALL_SECONDS = 1.0  # a tick so late means that the daemon stood still, not that nodes were silent
_UNSENT_LIMIT = 512
_FAREWELL_SECONDS = 2.0
_FACTS_LIMIT = _SAMPLE_LIMIT = 1 << 16
_STATUS_LIMIT = 1 << 18  # some hundred bytes for each model on the node's disk
_HYSTERESIS = 0.9
_INTERVALS_TO_OFFLINE = 2.4  # 12 s at 5 s


class TooSlow(ClusterAIError):
    code, status = "too-slow", Status.EXHAUSTED
    message = "{node_id} does not read what is sent to it"
    hint = "look at the node's load and network; it connects again by itself"


class Session:
    """One stream. Messages down are queued and written in order; no task exists while there is nothing to write."""

    def __init__(self, node: Node, epoch: int, hello: Hello, write: Write) -> None:
        self.node, self.epoch, self.nonce = node, epoch, hello.session_nonce
        self.logs = SessionLogs(node.node_id, self.send)
        self.ended = False
        self.handler = asyncio.current_task()  # reads the stream; cancelling it ends the stream
        self._write = write
        self._unsent: deque[SessionResponse] = deque()
        self._writer: asyncio.Task[None] | None = None

    def send(self, message: SessionResponse) -> None:
        """Queue a message; a peer that does not read loses its session."""
        if self.ended:
            return
        if len(self._unsent) >= _UNSENT_LIMIT:
            log.warning("%s does not read what is sent to it; its session ends", self.node.node_id)
            self._finish()
            return
        self._unsent.append(message)
        if self._writer is None:
            self._writer = asyncio.create_task(self._drain(), name=f"to {self.node.node_id}")

    def send_spec(self, spec: NodeSpec) -> None:
        """Tell the node what it shall run."""
        self.send(SessionResponse(spec=spec))

    def end(self, reason: Farewell.Reason, detail: str) -> None:
        """Say farewell and end the stream, at once or as soon as the peer has read it."""
        if self.ended:
            return
        self.send(SessionResponse(farewell=Farewell(reason=reason, detail=detail)))
        self.ended = True
        if self._writer is None:
            self._finish()
        else:
            asyncio.get_running_loop().call_later(_FAREWELL_SECONDS, self._finish)

    async def close(self) -> None:
        """Stop writing; once, when the stream has ended."""
        self.ended, self.handler = True, None
        self.logs.close()
        if self._writer is not None:
            self._writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._writer

    def _finish(self) -> None:
        self.ended = True
        if self.handler is not None:
            self.handler.cancel()

    async def _drain(self) -> None:
        with contextlib.suppress(grpc.aio.BaseError):  # the stream is gone: its reader knows
            while self._unsent:
                await self._write(self._unsent.popleft())
        self._writer = None
        if self.ended:
            self._finish()


class Sessions:
    """All live streams, and the clock that finds the silent ones."""

    def __init__(
        self,
        nodes: Nodes,
        events: EventLog,
        config: SessionConfig,
        addresses: Callable[[], Sequence[str]],
        epochs: Counter,
    ) -> None:
        self._nodes, self._events, self._addresses, self._epochs = nodes, events, addresses, epochs
        self.config = config
        self._live: dict[NodeId, Session] = {}
        self._interval, self._phone_interval = config.heartbeat_seconds, config.phone_heartbeat_seconds
        self._started = asyncio.get_running_loop().time()
        self._all_back = False  # once; who leaves after that is not waited for
        self._closing = False

    def __len__(self) -> int:
        return len(self._live)

    def find(self, node_id: NodeId) -> Session | None:
        """Return the node's live session."""
        return self._live.get(node_id)

    def open(self, node_id: str, address: str, hello: Hello, write: Write) -> Session:
        """Begin a session in the running task, with the welcome as its first message; an older one of this node ends.

        Raises:
            NoSuchNode: its certificate is good, but the node was removed.
            BadRequest: the hello is too large.
        """
        node = self._nodes.find(node_id)
        _check_size("facts", hello.facts.ByteSize(), _FACTS_LIMIT)
        _check_size("status", hello.status.ByteSize(), _STATUS_LIMIT)
        self._replace(node, hello)
        session = Session(node, self._epochs.next(), hello, write)
        self._live[node.node_id] = session
        node.session, node.address, node.wire = None, address, NOTHING_MADE
        self._nodes.facts_received(node, hello.facts)
        node.heard_at = asyncio.get_running_loop().time()
        node.heard_once = True
        self._nodes.status_received(node, hello.status, SessionOpened(session.epoch))
        session.send(SessionResponse(welcome=self._welcome(node, session)))
        node.session = session
        if self._closing:
            session.end(Farewell.REASON_SHUTDOWN, "the server is shutting down")
        return session

    def received(self, session: Session, request: SessionRequest) -> None:
        """Take a message of a session; those of a replaced one change nothing."""
        node = session.node
        if node.session is not session:
            return
        node.heard_at = asyncio.get_running_loop().time()
        if node.entry.link is not Link.UP:
            self._nodes.apply(node, Heard(session.epoch))
        kind = request.WhichOneof("message")
        if kind == "heartbeat":
            if request.ByteSize() <= _SAMPLE_LIMIT:
                node.sample = request.heartbeat.sample
        elif kind == "status":
            _check_size("status", request.ByteSize(), _STATUS_LIMIT)
            self._nodes.status_received(node, request.status)
        elif kind == "log_chunk":
            session.logs.chunk_received(request.log_chunk)

    async def close(self, session: Session, why: str = "its session broke off") -> None:
        """Note that the stream has ended."""
        await session.close()
        node = session.node
        if self._live.get(node.node_id) is session:
            del self._live[node.node_id]
        if node.session is session:
            node.session = None
            self._nodes.apply(node, SessionBroken(session.epoch, why))

    def identity_revoked(self, identity: Identity) -> None:
        """Listen to revocations: the identity's session ends at once."""
        session = self._live.get(NodeId(identity.name)) if identity.kind is IdentityKind.NODE else None
        if session is not None:
            session.end(Farewell.REASON_REVOKED, "this node's certificate was revoked; join again with a new token")

    async def shut_down(self, limit_seconds: float = 3.0) -> None:
        """Say farewell to everyone and wait, for a bounded time, until their streams have ended."""
        self._closing = True
        for session in tuple(self._live.values()):
            session.end(Farewell.REASON_SHUTDOWN, "the server is shutting down")
        streams = [session.handler for session in self._live.values() if session.handler is not None]
        if streams:
            await asyncio.wait(streams, timeout=limit_seconds)

    async def watch(self) -> None:
        """Find silent nodes, for ever."""
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = loop.time()
            self.tick(now, now - last)
            last = now

    def tick(self, now: float, since_last: float) -> None:
        """Look at every node once. After a stall of the daemon itself all have a full grace time again."""
        if since_last > _STALL_SECONDS + _TICK_SECONDS:
            log.warning("the daemon stood still for %.1f s: every node has a full grace time again", since_last)
            for node in self._nodes:
                node.heard_at = now
        queue = len(self._nodes) / _RETURNS_PER_SECOND  # who was not heard since our start may still stand in it
        self._all_back = self._all_back or len(self._live) >= len(self._nodes)
        self._stretch(while_returning=not self._all_back and now - self._started < queue)
        limits = {phone: self.offline_seconds(phone) - 2 * _TICK_SECONDS for phone in (False, True)}  # never after it
        for node in self._nodes:
            limit = limits[node.is_phone]
            grace = limit if node.heard_once else limit + queue
            if now - node.heard_at >= grace and node.entry.link is not Link.SILENT:
                self._nodes.apply(node, Silent())

    def offline_seconds(self, is_phone: bool) -> float:
        """After how much silence such a node is offline: as configured, longer when its heartbeats are rarer."""
        return max(self.config.offline_seconds, self.interval_seconds(is_phone) * _INTERVALS_TO_OFFLINE)

    def interval_seconds(self, is_phone: bool) -> float:
        """How often such a node is heard: phones seldom, because each heartbeat wakes them and their radio."""
        return max(self._interval, self._phone_interval) if is_phone else self._interval

    def reconfigure(self, config: SessionConfig) -> None:
        """Use other intervals from now on."""
        self.config = config

    def _stretch(self, *, while_returning: bool) -> None:
        """Tell all nodes a longer or shorter interval when their number changed enough, or the settings did.

        While many come back those that are back are heard as seldom as `offline_seconds` allows: their heartbeats would
        take turns with the others' handshakes.
        """
        stretch = _stretched(len(self._live), self.config, self._interval / self.config.heartbeat_seconds)
        wanted = self.config.heartbeat_seconds * stretch
        if while_returning:
            wanted = max(wanted, self.config.offline_seconds / _INTERVALS_TO_OFFLINE)
        if (wanted, self.config.phone_heartbeat_seconds) == (self._interval, self._phone_interval):
            return
        self._interval, self._phone_interval = wanted, self.config.phone_heartbeat_seconds
        for session in self._live.values():
            interval = HeartbeatInterval(heartbeat_interval_seconds=self.interval_seconds(session.node.is_phone))
            session.send(SessionResponse(heartbeat_interval=interval))

    def _replace(self, node: Node, hello: Hello) -> None:
        """End an older session of the same identity; when both are alive, two machines share it."""
        old = self._live.get(node.node_id)
        if old is None:
            return
        quiet = asyncio.get_running_loop().time() - node.heard_at
        if old.nonce != hello.session_nonce and quiet < 2 * self.interval_seconds(node.is_phone):
            where = f"{node.facts.hostname or 'one'} and {hello.facts.hostname or 'another'}"
            message = f"two machines use the identity of {node.node_id} ({where}); the one that came last has it now"
            self._events.note("node-cloned", node.node_id, message)
        node.session = None
        old.end(Farewell.REASON_REPLACED, "a newer session of this node has begun")

    def _welcome(self, node: Node, session: Session) -> Welcome:
        return Welcome(
            node_id=node.node_id,
            epoch=session.epoch,
            heartbeat_interval_seconds=self.interval_seconds(node.is_phone),
            spec=node.spec,
            server_clock_unix_seconds=time.time(),
            server_version=__version__,
            server_addresses=self._addresses(),
        )


def _stretched(count: int, config: SessionConfig, current: float) -> float:
    """Return the factor, a power of two, by which so many nodes stretch the interval; it goes back with hysteresis."""
    load = count / (config.heartbeats_per_second * config.heartbeat_seconds)
    stretch = 1.0
    while stretch < load:
        stretch *= 2
    return current if stretch < current and load > _HYSTERESIS * current / 2 else stretch


def _check_size(what: str, size: int, limit: int) -> None:
    if size > limit:
        raise BadRequest(what=what, reason=f"{size} bytes are more than {limit}")
