"""The gate and the way to the mirror, with real stunnel: who is let in, renewal under open streams, large ones."""

import asyncio
import os
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from clusterai.models import GATEWAY_NAME, MIRROR_NAME
from clusterai.pki import CertificateAuthority
from clusterai.units import Units, UnitsConfig, open_units
from clusterai.v1 import types_pb2 as types
from clusterai.v1.node_pb2 import CERTIFICATE_KIND_GATE
from clusterai_agent.models.desired import Wanted, WantedModel
from clusterai_agent.models.gate import Gate
from clusterai_agent.models.tunnel_units import UNITS
from clusterai_agent.server import Server
from support.gate_peers import (
    DirectServer,
    certificate,
    client_context,
    echo,
    gateway,
    is_let_in,
    listening,
    mirror_context,
    through,
)
from support.node_daemon import NodeDaemon
from support.ports import free_port

MIB = 1 << 20


@dataclass
class Node:
    """A node's gate, run by the process back-end."""

    directory: Path
    units: Units
    mirror_port: int = field(default_factory=free_port)
    port: int = field(default_factory=free_port)
    daemon: NodeDaemon = field(default_factory=NodeDaemon)

    def __post_init__(self) -> None:
        self.server = DirectServer(self.daemon)
        self.gate = self.new_gate()
        self.authority = self.daemon.cluster_ca
        self.gateway = gateway(self.directory, self.authority)

    def new_gate(self) -> Gate:
        return Gate(self.directory / "gate", self.mirror_port, self.units, self.server)

    def wanted(self, *models: WantedModel, mirror: str = "") -> Wanted:
        return Wanted(
            models, None, self.port, GATEWAY_NAME, mirror_address=mirror, mirror_name=MIRROR_NAME
        )

    async def settled(self, wanted: Wanted, ollama: str) -> None:
        """Settle until the gate is ready."""
        async with asyncio.timeout(60):
            while True:
                await self.gate.settle(wanted, ollama)
                if self.gate.settled:
                    return
                await asyncio.sleep(0.1)

    async def process(self, kind: str = "gate") -> int:
        return (await self.units.status(UNITS[kind])).main_process_id


@asynccontextmanager
async def node(directory: Path) -> AsyncIterator[Node]:
    (directory / "gate").mkdir()
    folders = {f"clusterai-{kind}": directory / "gate" for kind in UNITS}
    async with open_units(UnitsConfig("process", directory / "units", folders, stop_on_exit=True)) as units:
        yield Node(directory, units)


async def test_only_the_gateway_is_let_in(tmp_path: Path) -> None:
    async with node(tmp_path) as here, listening(echo) as port:
        await here.settled(here.wanted(), f"127.0.0.1:{port}")
        ca, stranger = here.authority, CertificateAuthority.create("another", "spiffe://another")
        assert here.gate.status.state == types.SERVICE_STATE_READY
        assert here.gate.status.port == here.port
        assert here.gate.status.certificate_not_after_unix_seconds > time.time()
        assert await is_let_in(here.port, ca, here.gateway)
        refused = {
            "nobody": None,
            "another node's gate": certificate(tmp_path / "a.pem", ca, "gate/m", "m.gate.clusterai"),
            "a node": certificate(tmp_path / "b.pem", ca, "node/m"),
            "an operator with the gateway's name in the URI only": certificate(tmp_path / "c.pem", ca, "gateway"),
            "the gateway of another cluster": certificate(tmp_path / "d.pem", stranger, "gateway", GATEWAY_NAME),
        }
        for who, file in refused.items():
            assert not await is_let_in(here.port, ca, file), who
        assert await is_let_in(here.port, ca, here.gateway), "and the gateway still is"


async def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    async with node(tmp_path) as here, listening(echo) as port:
        await here.settled(here.wanted(), f"127.0.0.1:{port}")
        brief = certificate(
            tmp_path / "brief.pem", here.authority, "gateway", GATEWAY_NAME, lifetime=timedelta(seconds=4)
        )
        assert await is_let_in(here.port, here.authority, brief)
        await asyncio.sleep(5)
        assert not await is_let_in(here.port, here.authority, brief)


async def test_the_gate_is_known_by_its_own_name(tmp_path: Path) -> None:
    async with node(tmp_path) as here, listening(echo) as port:
        await here.settled(here.wanted(), f"127.0.0.1:{port}")
        with pytest.raises(ssl.SSLCertVerificationError):
            async with through(here.port, here.authority, here.gateway, "m.gate.clusterai"):
                pass


async def test_a_renewed_certificate_is_taken_and_open_streams_go_on(tmp_path: Path) -> None:
    async with node(tmp_path) as here, listening(echo) as port:
        here.daemon.gate_lifetime = timedelta(seconds=20)
        await here.settled(here.wanted(), f"127.0.0.1:{port}")
        process = await here.process()
        async with through(here.port, here.authority, here.gateway) as old:
            assert await old.said(b"before") == b"before"
            first = old.serial
            async with asyncio.timeout(60):
                while here.daemon.renewals != [CERTIFICATE_KIND_GATE] * 2:
                    await here.gate.settle(here.wanted(), f"127.0.0.1:{port}")
                    await asyncio.sleep(0.2)
            async with asyncio.timeout(60):
                while True:
                    async with through(here.port, here.authority, here.gateway) as new:
                        if await new.said(b"new") == b"new" and new.serial != first:
                            break
                    await asyncio.sleep(0.1)
            assert await old.said(b"after") == b"after"
        assert await here.process() == process, "it was not restarted"


async def test_without_a_session_the_old_certificate_stays_in_use(tmp_path: Path) -> None:
    async with node(tmp_path) as here, listening(echo) as port:
        here.daemon.gate_lifetime = timedelta(hours=1)
        await here.settled(here.wanted(), f"127.0.0.1:{port}")
        here.server.away = True
        here.gate = here.new_gate()
        await here.settled(here.wanted(), f"127.0.0.1:{port}")
        assert await is_let_in(here.port, here.authority, here.gateway)


async def test_without_any_certificate_it_is_closed_and_says_why(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        here.server.away = True
        await here.gate.settle(here.wanted(), "127.0.0.1:9")
        assert here.gate.status.state == types.SERVICE_STATE_FAILED
        assert "no certificate: cannot reach the server" in here.gate.status.reason
        assert not here.gate.settled


async def test_without_stunnel_it_says_what_to_install(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        gate = Gate(tmp_path / "gate", here.mirror_port, here.units, here.server, lambda: None)
        await gate.settle(here.wanted(), "127.0.0.1:9")
        assert "`sudo apt install stunnel4`" in gate.status.reason


async def test_large_and_slow_streams_pass_unchanged_and_at_their_own_pace(tmp_path: Path) -> None:
    async with node(tmp_path) as here, listening(echo) as port:
        await here.settled(here.wanted(), f"127.0.0.1:{port}")
        async with through(here.port, here.authority, here.gateway) as wire:
            for size in (1, 10_000, 64 * MIB // 16):
                data = os.urandom(size)
                assert await wire.said(data) == data
            for number in range(5):
                assert await wire.said(b"%d\n" % number) == b"%d\n" % number, "nothing waits for more"
                await asyncio.sleep(0.3)


async def test_an_ollama_that_is_down_costs_the_connection_only(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        dead = free_port()
        await here.settled(here.wanted(), f"127.0.0.1:{dead}")
        process = await here.process()
        assert not await is_let_in(here.port, here.authority, here.gateway)
        assert await here.process() == process


async def test_another_address_of_ollama_restarts_the_gate(tmp_path: Path) -> None:
    async with node(tmp_path) as here, listening(echo) as port:
        await here.settled(here.wanted(), f"127.0.0.1:{free_port()}")
        await here.settled(here.wanted(), f"127.0.0.1:{port}")
        async with asyncio.timeout(60):
            while not await is_let_in(here.port, here.authority, here.gateway):
                await asyncio.sleep(0.1)


async def test_it_closes_when_it_is_not_wanted_and_when_the_node_is_no_more(tmp_path: Path) -> None:
    async with node(tmp_path) as here, listening(echo) as port:
        await here.settled(here.wanted(), f"127.0.0.1:{port}")
        await here.gate.settle(Wanted(), f"127.0.0.1:{port}")
        assert here.gate.status.state == types.SERVICE_STATE_STOPPED
        assert not await is_let_in(here.port, here.authority, here.gateway)
        await here.settled(here.wanted(), f"127.0.0.1:{port}")
        await here.gate.give_up()
        assert not await is_let_in(here.port, here.authority, here.gateway)
        assert [path.name for path in (tmp_path / "gate").iterdir() if path.suffix in (".pem", ".json")] == []


async def test_after_a_boot_it_opens_before_the_server_is_there(tmp_path: Path) -> None:
    async with listening(echo) as port:
        async with node(tmp_path) as here:
            await here.settled(here.wanted(), f"127.0.0.1:{port}")
            authority, file, gate_port = here.authority, here.gateway, here.port
        (tmp_path / "again").mkdir()
        folders = {f"clusterai-{kind}": tmp_path / "gate" for kind in UNITS}
        async with open_units(UnitsConfig("process", tmp_path / "again", folders, stop_on_exit=True)) as units:
            await Gate(tmp_path / "gate", 1, units, Server()).resume()
            async with asyncio.timeout(60):
                while not await is_let_in(gate_port, authority, file):
                    await asyncio.sleep(0.1)


async def plainly(port: int, data: bytes) -> bytes:
    """Send to a plain port; return what comes back, nothing when it breaks off."""
    try:
        async with asyncio.timeout(30):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(data)
                return await reader.readexactly(len(data))
            finally:
                writer.transport.abort()
    except (OSError, asyncio.IncompleteReadError):
        return b""


MIRRORED = WantedModel("a:latest", from_mirror=True)


async def test_the_way_to_the_mirror_shows_the_gate_s_certificate_and_checks_the_server(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        shown: list[object] = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            shown.append(writer.get_extra_info("peercert")["subjectAltName"])
            await echo(reader, writer)

        async with listening(answer, mirror_context(here.gateway, here.authority)) as port:
            await here.settled(here.wanted(MIRRORED, mirror=f":{port}"), "127.0.0.1:9")
            assert here.gate.mirror_problem == ""
            assert await plainly(here.mirror_port, b"GET") == b"GET"
            assert ("DNS", "n.gate.clusterai") in shown[0]  # type: ignore[operator]
        other = certificate(tmp_path / "other.pem", here.authority, "gate/m", "m.gate.clusterai")
        async with listening(echo, mirror_context(other, here.authority)) as port:
            await here.settled(here.wanted(MIRRORED, mirror=f"127.0.0.1:{port}"), "127.0.0.1:9")
            assert await plainly(here.mirror_port, b"GET") == b"", "another name than the mirror's"


async def test_it_is_closed_while_nothing_comes_from_the_server(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        await here.settled(here.wanted(mirror=":9"), "127.0.0.1:9")
        assert await here.process("mirror") == 0
        here.server.address = ""
        await here.gate.settle(here.wanted(MIRRORED, mirror=":9"), "127.0.0.1:9")
        assert here.gate.mirror_problem == "the address of the server's copies is not known"


def test_the_peers_of_these_tests_trust_nobody_else(tmp_path: Path) -> None:
    authority = CertificateAuthority.create("cluster")
    context = client_context(authority, None)
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
