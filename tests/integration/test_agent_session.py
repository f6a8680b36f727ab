"""The agent's session against a real gRPC server with mTLS: connects, reconnects, changes certificates, obeys."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from clusterai.credentials import load_credentials
from clusterai.errors import ClusterAIError
from clusterai.files import CannotWrite
from clusterai.v1.node_pb2 import (
    Farewell,
    HeartbeatInterval,
    Hello,
    LogChunk,
    LogRequest,
    NodeSpec,
    NodeStatus,
    Welcome,
)
from clusterai.v1.types_pb2 import Sample
from clusterai_agent import session
from clusterai_agent.connection import Connection, Whereabouts
from clusterai_agent.discovery import FoundServer
from clusterai_agent.home import Home
from clusterai_agent.renewal import Renewer
from clusterai_agent.server import Server
from clusterai_agent.session import Ending, EndReason, Reports
from support.node_daemon import CLUSTER_ID, NodeDaemon
from support.waiting import until

Browse = Callable[[], Awaitable[list[FoundServer]]]


class Recorder:
    """Stands where supervisor, renewer and report stand, and remembers."""

    def __init__(self) -> None:
        self.specs: list[NodeSpec] = []
        self.said: list[str] = []
        self.asked = 0
        self.status = NodeStatus(observed_generation=1)

    def welcome_received(self, welcome: Welcome) -> None:
        """Nothing to do."""

    def spec_received(self, spec: NodeSpec) -> None:
        self.specs.append(spec)

    def renewal_asked(self) -> None:
        self.asked += 1

    def connected(self, address: str) -> None:
        self.said.append(f"connected {address}")

    def disconnected(self, reason: str, hint: str = "") -> None:
        self.said.append(f"{reason}; {hint}")

    async def answer(self, request: LogRequest) -> AsyncIterator[LogChunk]:
        for number in range(1000):
            yield LogChunk(request_id=request.request_id, error=str(number))
            await asyncio.sleep(0.01)


class Node:
    """A connection with its collaborators."""

    def __init__(self, home: Home, configured: tuple[str, ...], browse: Browse | None) -> None:
        self.recorder, self.server = Recorder(), Server()
        reports = Reports(lambda: Hello(session_nonce="x"), lambda: Sample(load_1min=1), lambda: self.recorder.status)
        recorder = self.recorder
        self.connection = Connection(
            home, home.membership(), Whereabouts(configured, browse), self.server, reports, recorder, recorder, recorder
        )
        self.ended: asyncio.Task[Ending] = asyncio.create_task(self.connection.run(), name="connection")


@contextmanager
def full_listener() -> Iterator[str]:
    """Yield an address from which nothing comes, as when packets are dropped: its queue of connections is full."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@asynccontextmanager
async def node(
    home: Home, *configured: str, browse: Browse | None = None
) -> AsyncIterator[Node]:
    running = Node(home, configured, browse)
    try:
        yield running
    finally:
        running.ended.cancel()
        await asyncio.gather(running.ended, return_exceptions=True)


async def test_heartbeats_come_at_the_servers_interval_and_a_new_one_counts_at_once(tmp_path: Path) -> None:
    async with NodeDaemon.serving() as daemon:
        daemon.interval = 60
        daemon.enrol(home := Home(tmp_path / "agent"))
        async with node(home, daemon.address) as running:
            await until(lambda: daemon.streams and daemon.last.heartbeats)
            daemon.last.send(heartbeat_interval=HeartbeatInterval(heartbeat_interval_seconds=0.05))
            await until(lambda: len(daemon.last.heartbeats) >= 5)
            assert [beat.sequence for beat in daemon.last.heartbeats][:3] == [1, 2, 3]
            assert running.recorder.specs[0].reason == "nothing to do"


async def test_who_is_told_another_interval_is_heard_at_any_moment_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def soon(low: float, high: float) -> float:
        asked.append((low, high))
        return 0.0

    monkeypatch.setattr(session, "random", SimpleNamespace(uniform=soon))
    async with NodeDaemon.serving() as daemon:
        daemon.interval = 60
        daemon.enrol(home := Home(tmp_path / "agent"))
        async with node(home, daemon.address):
            await until(lambda: daemon.streams and daemon.last.heartbeats)
            daemon.last.send(heartbeat_interval=HeartbeatInterval(heartbeat_interval_seconds=300))
            await until(lambda: len(daemon.last.heartbeats) == 2)
            assert asked == [(0, 300)]


async def test_status_travels_when_it_changes(tmp_path: Path) -> None:
    async with NodeDaemon.serving() as daemon:
        daemon.enrol(home := Home(tmp_path / "agent"))
        async with node(home, daemon.address) as running:
            await until(lambda: daemon.streams and daemon.last.heartbeats)
            assert not daemon.last.statuses
            running.recorder.status = NodeStatus(observed_generation=7)
            running.connection.status_changed()
            await until(lambda: daemon.last.statuses)
            assert daemon.last.statuses[0].observed_generation == 7


async def test_it_comes_back_soon_after_a_restarted_server(tmp_path: Path) -> None:
    async with NodeDaemon.serving() as daemon:
        daemon.enrol(home := Home(tmp_path / "agent"))
        async with node(home, daemon.address):
            await until(lambda: daemon.streams)
            await daemon.stop()
            await asyncio.sleep(3)
            await daemon.start()
            started = time.monotonic()
            await until(lambda: len(daemon.streams) == 2)
            assert time.monotonic() - started < 20


async def test_a_server_that_says_it_shuts_down_is_tried_again(tmp_path: Path) -> None:
    async with NodeDaemon.serving() as daemon:
        daemon.enrol(home := Home(tmp_path / "agent"))
        async with node(home, daemon.address):
            await until(lambda: daemon.streams)
            daemon.last.send(farewell=Farewell(reason=Farewell.REASON_SHUTDOWN))
            await until(lambda: len(daemon.streams) == 2)


async def test_a_changed_address_is_found_by_multicast_and_remembered(tmp_path: Path) -> None:
    async with NodeDaemon.serving() as daemon:
        daemon.enrol(home := Home(tmp_path / "agent"), addresses=("127.0.0.1:1",))

        async def browse() -> list[FoundServer]:
            return [FoundServer("c-other", ("127.0.0.1:2",), 7444), FoundServer(CLUSTER_ID, (daemon.address,), 7444)]

        async with node(home, browse=browse):
            await until(lambda: home.membership().server_addresses == (daemon.address, "127.0.0.1:1"))
        assert daemon.streams


async def test_addresses_that_lead_nowhere_do_not_keep_it_from_one_that_works(tmp_path: Path) -> None:
    with full_listener() as silent:
        async with NodeDaemon.serving() as daemon:
            daemon.enrol(home := Home(tmp_path / "agent"))
            started = time.monotonic()
            async with node(home, silent, daemon.address):
                await until(lambda: daemon.streams and daemon.last.heartbeats)
            assert time.monotonic() - started < 15


async def test_addresses_that_the_server_names_are_remembered(tmp_path: Path) -> None:
    async with NodeDaemon.serving() as daemon:
        daemon.server_addresses = ["10.9.8.7:7443", "not an address", "x" * 400]
        daemon.enrol(home := Home(tmp_path / "agent"))
        async with node(home, daemon.address):
            await until(lambda: daemon.streams and daemon.last.heartbeats)
        assert home.membership().server_addresses == (daemon.address, "10.9.8.7:7443")


async def test_a_server_of_another_cluster_is_not_talked_to(tmp_path: Path) -> None:
    async with NodeDaemon.serving() as daemon, NodeDaemon.serving() as stranger:
        daemon.enrol(home := Home(tmp_path / "agent"))
        async with node(home, stranger.address) as running:
            await until(lambda: running.recorder.said)
            assert not stranger.streams
            assert "cannot reach" in running.recorder.said[0]


async def test_a_revoked_node_stays_away(tmp_path: Path) -> None:
    async with NodeDaemon.serving() as daemon:
        daemon.enrol(home := Home(tmp_path / "agent"))
        daemon.refusal = Farewell(reason=Farewell.REASON_REVOKED, detail="removed by an operator")
        async with node(home, daemon.address) as running:
            assert await running.ended == Ending(EndReason.REVOKED, "removed by an operator")


async def test_a_replaced_node_does_not_fight_for_its_identity(tmp_path: Path) -> None:
    async with NodeDaemon.serving() as daemon:
        daemon.enrol(home := Home(tmp_path / "agent"))
        async with node(home, daemon.address) as first:
            await until(lambda: daemon.streams)
            async with node(home, daemon.address):
                assert (await first.ended).reason is EndReason.REPLACED
                assert len(daemon.streams) == 2


async def test_renewal_moves_the_session_without_a_gap(tmp_path: Path) -> None:
    async with NodeDaemon.serving() as daemon:
        daemon.enrol(home := Home(tmp_path / "agent"))
        async with node(home, daemon.address) as running:
            await until(lambda: daemon.streams and daemon.last.heartbeats)
            await Renewer(home, running.connection, running.server).renew()
            await until(lambda: len(daemon.streams) == 2 and len(daemon.last.heartbeats) > 3)
            old, new = daemon.streams
            gap = new.heard[0] - old.heard[-1]
            assert gap < 1
            assert old.certificate != new.certificate
            assert new.certificate.decode() in load_credentials(home.certificate).chain_pem.decode()
            assert not running.ended.done()


async def test_a_bad_new_certificate_leaves_the_old_session_alone(tmp_path: Path) -> None:
    async with NodeDaemon.serving() as daemon:
        daemon.break_renewals = True
        daemon.enrol(home := Home(tmp_path / "agent"))
        before = home.certificate.read_bytes()
        async with node(home, daemon.address) as running:
            await until(lambda: daemon.streams and daemon.last.heartbeats)
            renewer = asyncio.create_task(Renewer(home, running.connection, running.server).run())
            renewing = Renewer(home, running.connection, running.server)
            renewing.ask()
            asked = asyncio.create_task(renewing.run())
            await until(lambda: daemon.renewals)
            beats = len(daemon.streams[0].heartbeats)
            await until(lambda: len(daemon.streams[0].heartbeats) > beats + 3)
            for task in (asked, renewer):
                task.cancel()
            await asyncio.gather(asked, renewer, return_exceptions=True)
            assert len(daemon.streams) == 1
            assert not daemon.streams[0].closed
        assert home.certificate.read_bytes() == before


async def test_a_new_certificate_that_cannot_be_written_is_used_and_written_later(tmp_path: Path) -> None:
    async with NodeDaemon.serving() as daemon:
        daemon.enrol(home := Home(tmp_path / "agent"))
        async with node(home, daemon.address) as running:
            await until(lambda: daemon.streams and daemon.last.heartbeats)
            renewer = Renewer(home, running.connection, running.server)
            home.ca.rename(tmp_path / "ca")
            home.ca.mkdir()
            with pytest.raises(CannotWrite):
                await renewer.renew()
            home.ca.rmdir()
            await renewer.renew()
            assert load_credentials(home.certificate) == running.connection.credentials
            assert len(daemon.renewals) == 1


async def test_who_was_replaced_by_its_own_failed_renewal_comes_back(tmp_path: Path) -> None:
    async with NodeDaemon.serving() as daemon:
        daemon.enrol(home := Home(tmp_path / "agent"))
        async with node(home, daemon.address) as running:
            await until(lambda: daemon.streams and daemon.last.heartbeats)
            daemon.drops_next_session = True
            with pytest.raises(ClusterAIError):
                await Renewer(home, running.connection, running.server).renew()
            await until(lambda: len(daemon.streams) == 3 and daemon.last.heartbeats)
            assert not running.ended.done()


async def test_a_certificate_is_renewed_at_two_thirds_of_its_life(tmp_path: Path) -> None:
    async with NodeDaemon.serving() as daemon:
        daemon.enrol(home := Home(tmp_path / "agent"), lifetime=timedelta(seconds=15))
        started = time.monotonic()
        async with node(home, daemon.address) as running:
            renewing = asyncio.create_task(Renewer(home, running.connection, running.server, jitter=0).run())
            await until(lambda: len(daemon.streams) == 2)
            assert time.monotonic() - started > 7
            await until(lambda: home.credentials().not_after > datetime.now(UTC) + timedelta(days=6))
            await asyncio.sleep(0.3)
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            assert len(daemon.renewals) == 1


async def test_an_expired_certificate_says_what_to_do(tmp_path: Path) -> None:
    async with NodeDaemon.serving() as daemon:
        daemon.enrol(home := Home(tmp_path / "agent"), lifetime=timedelta(seconds=1))
        await asyncio.sleep(1.5)
        async with node(home, daemon.address) as running:
            await until(lambda: running.recorder.said)
        assert "certificate of node n ended on" in running.recorder.said[0]
        assert "clusteractl token create --name n" in running.recorder.said[0]
        assert "clusterai-agent join --force --name n" in running.recorder.said[0]
        assert not daemon.streams


async def test_a_log_request_is_answered_until_it_is_cancelled(tmp_path: Path) -> None:
    async with NodeDaemon.serving() as daemon:
        daemon.enrol(home := Home(tmp_path / "agent"))
        async with node(home, daemon.address):
            await until(lambda: daemon.streams)
            daemon.last.send(log_request=LogRequest(request_id=5, follow=True))
            await until(lambda: len(daemon.last.log_chunks) > 3)
            daemon.last.send(log_cancel={"request_id": 5})
            await asyncio.sleep(0.2)
            count = len(daemon.last.log_chunks)
            await asyncio.sleep(0.2)
            assert len(daemon.last.log_chunks) == count
            assert {chunk.request_id for chunk in daemon.last.log_chunks} == {5}


async def test_renew_now_is_passed_on(tmp_path: Path) -> None:
    async with NodeDaemon.serving() as daemon:
        daemon.enrol(home := Home(tmp_path / "agent"))
        async with node(home, daemon.address) as running:
            await until(lambda: daemon.streams)
            daemon.last.send(renew_now={})
            await until(lambda: running.recorder.asked)


def test_credentials_of_a_home_are_a_matching_pair(tmp_path: Path) -> None:
    NodeDaemon().enrol(home := Home(tmp_path / "agent"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_cert_chain(home.certificate)
