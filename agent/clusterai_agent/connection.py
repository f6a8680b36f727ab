"""Keeps one session with the daemon: finds it, connects, reconnects with jitter, and changes certificates under it."""

import asyncio
import contextlib
import logging
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from clusterai.channel import Patience, Trust, open_channel
from clusterai.credentials import Credentials
from clusterai.errors import ClusterAIError, Unreachable
from clusterai.remote import split_address
from clusterai.termux import is_android
from clusterai_agent.addresses import SERVER_PORT, Address, network_changes, parse_all, way_out
from clusterai_agent.discovery import FoundServer, of_cluster
from clusterai_agent.home import Home, Membership
from clusterai_agent.server import Server
from clusterai_agent.server_clock import ServerClock
from clusterai_agent.session import Dismissed, Ending, EndReason, Listener, LogReader, Reports, Session, open_seconds
from clusterai_agent.validity import CertificateExpired, CertificateNotYetValid, check_validity

log = logging.getLogger(__name__)

FIRST_DELAY, LONGEST_DELAY = 0.5, 4.0  # seconds; a restarted daemon has all its nodes back within five
BROWSE_PAUSE = 30.0
# Each knock costs a phone 200 bytes and each browse a second of its processor; most of the time it is just not at home.
_PHONE_LONGEST_DELAY, _PHONE_BROWSE_PAUSE = 60.0, 480.0
_GLANCE_SECONDS, _ECHO_SECONDS = 0.1, 30.0
_KNOCK_SECONDS = 4.0  # for a name's lookup too
_KEEPALIVE_SECONDS, _PHONE_KEEPALIVE_SECONDS = 20.0, 60.0  # each question and answer costs a phone 340 bytes
_FINAL = (EndReason.REVOKED, EndReason.REPLACED)


def reconnect_delay(attempt: int, chance: float, longest: float = LONGEST_DELAY) -> float:
    """Return the seconds to wait before the attempt (1, 2, …): full jitter, so that nodes do not come back in step.

    Formula: chance * min(longest, first * 2^attempt), of "Exponential Backoff And Jitter" (AWS, 2015).
    """
    return chance * min(longest, FIRST_DELAY * 2.0 ** min(attempt, 10))


@dataclass(frozen=True)
class Whereabouts:
    """What tells where the server is, besides what the agent remembers."""

    configured: tuple[str, ...]
    browse: Callable[[], Awaitable[list[FoundServer]]] | None  # None: discovery is off


class Observer(Protocol):
    """Who shows people how the connection is."""

    def connected(self, address: str) -> None:
        """A session stands."""

    def disconnected(self, reason: str, hint: str = "") -> None:
        """There is no session, for this reason."""


class Connection:
    """The agent's tie to the daemon. `run` returns only when the daemon said to stay away."""

    def __init__(
        self, home: Home, membership: Membership, whereabouts: Whereabouts, server: Server,
        reports: Reports, listener: Listener, logs: LogReader, observer: Observer,
    ) -> None:
        self._home, self._membership, self._whereabouts, self._server = home, membership, whereabouts, server
        self._reports, self._listener, self._logs, self._observer = reports, listener, logs, observer
        self._credentials = home.credentials()
        self._ca_pem = home.ca_pem()
        self._session: Session | None = None
        self._successor: asyncio.Queue[Session] = asyncio.Queue(1)
        self._handing_over, self._own_until = False, 0.0  # until when who replaces a session may be ourselves
        self._browsed_at = self._browse_pause = 0.0
        self._proven = ""  # the address of the last session
        self._attempt = 0  # since the last session
        self._clock, self._told = ServerClock(), False  # whether this round has a reason besides that nobody answers

    @property
    def credentials(self) -> Credentials:
        """The certificate that the session stands on."""
        return self._credentials

    def status_changed(self) -> None:
        """Tell the daemon the node's status soon; without a session the next hello does."""
        if self._session is not None:
            self._session.status_changed()

    async def run(self) -> Ending:
        """Hold a session, again and again; return when the node is revoked or replaced by a newer session."""
        while True:
            ending, self._told = None, False
            async for address in self._candidates():
                ending = await self._one_session(address)
                if ending is not None:
                    break
            if ending is not None and ending.reason in _FINAL:
                return ending
            self._attempt = 1 if ending is not None else self._attempt + 1
            await self._pause()

    async def hand_over(self, credentials: Credentials, ca_pem: bytes) -> None:
        """Move the session to new credentials: a new channel first, then the old one closes.

        Raises:
            ClusterAIError: the new credentials do not open a session; the old session goes on.
        """
        if self._session is None:
            raise Unreachable("the server", "there is no session now", "it is retried by itself")
        self._handing_over, self._own_until = True, math.inf
        try:
            session = await self._opened(self._session.address, credentials, ca_pem)
            self._credentials, self._ca_pem = credentials, ca_pem
            await self._successor.put(session)
        finally:
            self._handing_over, self._own_until = False, time.monotonic() + _ECHO_SECONDS

    async def _candidates(self) -> AsyncIterator[str]:
        """Yield addresses to try: configured, remembered, then, when none of them answered, what multicast says."""
        seen = set()
        for address in parse_all([*self._whereabouts.configured, *self._membership.server_addresses], SERVER_PORT):
            seen.add(address)
            yield str(address)
        for address in await self._found():
            if address not in seen:
                log.info("found the server by multicast at %s", address)
                yield str(address)

    async def _pause(self) -> None:
        """Wait before the next round. Another network ends the waiting: what led nowhere may lead somewhere there."""
        longest = _PHONE_LONGEST_DELAY if is_android() else LONGEST_DELAY
        delay = reconnect_delay(self._attempt, random.random(), longest)  # noqa: S311  jitter
        if await network_changes(delay):
            self._attempt, self._browse_pause = 0, 0.0

    async def _found(self) -> list[Address]:
        browse, idle = self._whereabouts.browse, is_android() and not way_out()
        if browse is None or idle or time.monotonic() - self._browsed_at < self._browse_pause:
            return []
        self._browsed_at = time.monotonic()
        longest = _PHONE_BROWSE_PAUSE if is_android() else BROWSE_PAUSE
        self._browse_pause = min(max(2 * self._browse_pause, BROWSE_PAUSE), longest)
        return of_cluster(await browse(), self._membership.cluster_id)

    async def _one_session(self, address: str) -> Ending | None:
        """Return how a session at the address ended; None when none began."""
        try:
            session = await self._begun(address)
        except Dismissed as dismissed:
            return self._ended(dismissed.ending)
        except ClusterAIError as error:
            if error.code == "revoked":
                return self._ended(Ending(EndReason.REVOKED, str(error)))
            self._failed(error)
            return None
        self._connected(session, address)
        try:
            return self._ended(await self._served(session))
        finally:
            self._session = None
            self._server.lost()

    async def _begun(self, address: str) -> Session:
        """Return a session at the address; a clock that is wrong is named as what it is."""
        try:
            check_validity(self._credentials, self._membership.node_id, datetime.now(UTC))
        except (CertificateExpired, CertificateNotYetValid) as error:
            raise await self._clock.difference(address) or error from error
        if address != self._proven:
            await _knock(address)
        self._proven = ""
        try:
            return await self._opened(address, self._credentials, self._ca_pem)
        except Unreachable as error:
            raise await self._clock.difference(address) or error from error

    def _failed(self, error: ClusterAIError) -> None:
        """Show why there is no session. That another address leads nowhere says less than what was said at one."""
        telling = not isinstance(error, Unreachable)
        if telling or not self._told:
            self._observer.disconnected(str(error), error.advice)
        self._told = self._told or telling

    def _connected(self, session: Session, address: str) -> None:
        self._session, self._proven, self._browse_pause = session, address, 0.0
        self._server.reached(session.channel, address)
        self._observer.connected(address)

    def _ended(self, ending: Ending) -> Ending:
        self._observer.disconnected(ending.detail or ending.reason.value)
        return ending

    async def _opened(self, address: str, credentials: Credentials, ca_pem: bytes) -> Session:
        limit = open_seconds(self._attempt)
        keepalive = _PHONE_KEEPALIVE_SECONDS if is_android() else _KEEPALIVE_SECONDS
        trust = Trust(ca_pem, credentials.chain_pem, credentials.key_pem)
        channel = open_channel(address, trust, Patience(limit, keepalive))
        session = Session(channel, address, self._reports, self._listener, self._logs)
        try:
            self._remember(address, (await session.open(limit)).server_addresses)
        except BaseException:
            await session.close()
            raise
        return session

    def _remember(self, address: str, announced: Iterable[str]) -> None:
        membership = self._membership.remembering([address, *list(announced)[:8]])
        if membership != self._membership:
            self._membership = membership
            with contextlib.suppress(ClusterAIError):  # a full disk must not cost the session
                self._home.remember(membership)

    async def _served(self, session: Session) -> Ending:
        """Serve the session and those that take over from it."""
        while True:
            serving = asyncio.create_task(session.serve(), name="session")
            successor = asyncio.create_task(self._successor.get(), name="successor")
            try:
                await asyncio.wait((serving, successor), return_when=asyncio.FIRST_COMPLETED)
                ending = None if successor.done() else await self._ending_or_successor(serving, successor)
            finally:
                await _cancelled(serving, successor)
                await session.close()
            if ending is not None:
                return ending
            session = successor.result()
            self._connected(session, session.address)

    async def _ending_or_successor(
        self, serving: "asyncio.Task[Ending]", successor: "asyncio.Task[Session]"
    ) -> Ending | None:
        """The ending; None when the session only made room for its own successor, which the daemon takes first."""
        ending = serving.result()
        if ending.reason is not EndReason.REPLACED or time.monotonic() > self._own_until:
            return ending
        while self._handing_over and not successor.done():
            await asyncio.wait((successor,), timeout=_GLANCE_SECONDS)  # opening it has a deadline
        await asyncio.sleep(0)  # what was put a moment ago
        return None if successor.done() else Ending(EndReason.LOST, "its own successor took its place and failed")


async def _knock(address: str) -> None:
    """Raise Unreachable unless something listens there: a session would wait long for an address that leads nowhere."""
    try:
        async with asyncio.timeout(_KNOCK_SECONDS):
            _, writer = await asyncio.open_connection(*split_address(address, SERVER_PORT))
    except (OSError, TimeoutError) as error:
        raise Unreachable(address, str(error) or f"no answer within {_KNOCK_SECONDS:.0f} s") from error
    writer.transport.abort()


async def _cancelled(*tasks: "asyncio.Task[object]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
