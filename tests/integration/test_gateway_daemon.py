"""The real daemon and the real gateway: what the one writes, the other does. Gates have the daemon's certificates."""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from clusterai.pki import CertificateAuthority, chain_pem, key_pem, new_csr, new_key
from clusterai.v1.key_pb2 import CreateKeyRequest, RevokeKeyRequest
from clusterai.v1.key_pb2_grpc import KeyServiceStub
from clusterai.v1.model_pb2 import ExplainRouteRequest
from clusterai.v1.model_pb2_grpc import ModelServiceStub
from clusterai.v1.node_pb2 import CERTIFICATE_KIND_GATE, NodeStatus, RenewRequest
from support.gates import Behaviour, Gate, names_itself, running_gate, streams
from support.gateway import CLUSTER, Gateway
from support.killable import KillableDaemon, killable_daemon
from support.models import info, ready_ollama
from support.raw_http import Answer, ask, read_head, request_bytes, sent
from support.sim_node import SimNode, SimSession, operator, sim_node
from support.waiting import until

MODEL = "llama3.2:3b"


class Place:
    """A daemon and a gateway that share a directory, as on a server."""

    def __init__(self, daemon: KillableDaemon, gateway: Gateway) -> None:
        self.daemon, self.gateway = daemon, gateway

    async def taken(self) -> None:
        """Let the gateway take its new certificates, as its unit's reload does."""
        await until(lambda: self.daemon.ca_pem().strip() in (self.gateway.state / "web.pem").read_bytes())
        self.gateway.reload()

    def table(self) -> dict[str, Any]:
        """What routes.json says."""
        found: dict[str, Any] = json.loads((self.gateway.state / "routes.json").read_text())
        return found

    async def key(self, name: str = "ann") -> str:
        """Make a key."""
        async with operator(self.daemon, KeyServiceStub) as keys:
            return str((await keys.CreateKey(CreateKeyRequest(name=name), timeout=60)).secret)

    async def chat(self, key: str) -> Answer:
        """Ask the model something."""
        return await ask(self.gateway.port, "/api/chat", {"model": MODEL}, key=key)

    def generation(self, name: str) -> int:
        """The generation of the file of that name."""
        return int(json.loads((self.gateway.state / f"{name}.json").read_text())["generation"])

    async def taken_up(self) -> None:
        """Wait until the gateway uses both files as they are now."""
        for name in ("routes", "keys"):
            await until(lambda name=name: self.gateway.status()[name]["generation"] == self.generation(name))  # type: ignore[misc]

    async def settled(self) -> None:
        """Wait until the gateway can serve the model."""
        await until(lambda: self.table()["models"].get(MODEL, {}).get("nodes"))
        await self.taken_up()

    async def served(self, key: str) -> None:
        """Wait until a chat is answered: the table is there, and the gateway has taken it and its certificate."""
        async with asyncio.timeout(60):
            while (answer := await self.chat(key)).status != 200:
                assert answer.status in (401, 404, 502, 503), answer.body
                await asyncio.sleep(0.05)


@asynccontextmanager
async def running(directory: Path, more: str = "") -> AsyncIterator[Place]:
    """Yield both, running; the gateway began with placeholders."""
    (directory / "gw").mkdir()
    gateway = Gateway(directory / "gw", CertificateAuthority.create("placeholder", CLUSTER))
    settings = f'[gateway]\ndirectory = "{gateway.state}"\nstatus_port = {gateway.status_port}\n{more}'
    gateway.start()
    try:
        async with killable_daemon(directory, settings=settings) as daemon:
            place = Place(daemon, gateway)
            await place.taken()
            yield place
    finally:
        gateway.stop()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with running(tmp_path) as both:
        yield both


async def gate_pem(node: SimNode) -> bytes:
    """Return key and chain of the node's gate, as its agent gets them."""
    key = new_key()
    request = RenewRequest(csr_der=new_csr(key), kind=CERTIFICATE_KIND_GATE)
    answer = await node.stub.Renew(request, timeout=60)
    return key_pem(key) + chain_pem(answer.certificate_chain_der)


def with_model(port: int) -> NodeStatus:
    """What a node with the model tells."""
    return NodeStatus(ollama=ready_ollama(port, models=[info(MODEL)]))


@asynccontextmanager
async def serving_node(
    place: Place, name: str, behaviour: Behaviour = names_itself
) -> AsyncIterator[tuple[Gate, SimNode, SimSession]]:
    """Yield a node that has the model, with its session and its gate."""
    async with AsyncExitStack() as parts:
        node = await parts.enter_async_context(sim_node(place.daemon, name))
        authority = _Authority(place.daemon.ca_pem())
        pem = await gate_pem(node)
        gate = await parts.enter_async_context(running_gate(name, authority, behaviour, pem=pem))  # type: ignore[arg-type]
        session = await node.session()
        await session.report(with_model(gate.port))
        yield gate, node, session


class _Authority:
    """What a gate knows of the cluster's authority."""

    def __init__(self, cert_pem: bytes) -> None:
        self.cert_pem = cert_pem


async def test_a_new_key_passes_and_a_revoked_one_is_refused_within_a_second(place: Place) -> None:
    async with serving_node(place, "tower"):
        key = await place.key()
        await place.served(key)
        another = await place.key("bob")
        await place.taken_up()
        assert (await place.chat(another)).headers["x-clusterai-node"] == "tower"
        async with operator(place.daemon, KeyServiceStub) as keys:
            await keys.RevokeKey(RevokeKeyRequest(key="bob"), timeout=60)
            revoked = time.monotonic()
            while (await place.chat(another)).status != 401:
                await asyncio.sleep(0.02)
                assert time.monotonic() - revoked < 30, "0.2 s on an idle machine"
        assert (await place.chat(key)).status == 200


async def test_why_is_answered_with_what_the_gateway_counts(place: Place) -> None:
    async with serving_node(place, "tower", streams(200, 0.05)) as (gate, _, _):
        key = await place.key()
        await place.settled()
        request = request_bytes("/api/chat", json.dumps({"model": MODEL}).encode(), headers={"X-Api-Key": key})
        async with sent(place.gateway.port, request) as (reader, _), operator(place.daemon, ModelServiceStub) as models:
            assert (await read_head(reader)).status == 200
            await until(lambda: place.gateway.status()["nodes"]["tower"]["in_flight"] == 1)
            told = await models.ExplainRoute(ExplainRouteRequest(model=MODEL), timeout=60)
            assert [(step.node_id, step.in_flight_count) for step in told.peers] == [("tower", 1)]
        await asyncio.wait_for(gate.aborted.wait(), 60)


async def test_a_killed_daemon_stops_no_chat_and_a_restarted_one_keeps_the_table(place: Place) -> None:
    async with serving_node(place, "tower"):
        key = await place.key()
        await place.served(key)
        before = place.generation("routes")
        await place.daemon.kill()
        for _ in range(3):
            assert (await place.chat(key)).status == 200
        await place.daemon.start()
        await asyncio.sleep(0.5)
        assert "tower" in place.table()["nodes"], "it was not heard yet, and its grace time runs"
        assert (await place.chat(key)).status == 200
        await place.key("bob")
        assert place.generation("keys") > 0
        assert place.generation("routes") >= before


async def test_a_daemon_that_is_stopped_leaves_the_nodes_in_the_table(place: Place) -> None:
    async with serving_node(place, "tower"):
        key = await place.key()
        await place.served(key)
        await place.daemon.stop()
        assert list(place.table()["nodes"]) == ["tower"]
        assert (await place.chat(key)).status == 200


async def test_a_node_that_goes_is_out_of_the_table_at_once_and_the_client_hears_why(place: Place) -> None:
    async with serving_node(place, "tower") as (_, _, session):
        key = await place.key()
        await place.served(key)
        session.call.cancel()
        await until(lambda: place.table()["nodes"] == {})
        await place.taken_up()
        answer = await place.chat(key)
        assert (answer.status, answer.code) == (503, "no-node")
        assert answer.json["error"].startswith("no node can serve llama3.2:3b now: tower is suspect")
        assert answer.headers["retry-after"] == "10"


async def test_a_web_certificate_is_renewed_while_a_stream_goes_on(tmp_path: Path) -> None:
    async with AsyncExitStack() as parts:
        place = await parts.enter_async_context(running(tmp_path, "[certificates]\nlifetime_seconds = 30\n"))
        await parts.enter_async_context(serving_node(place, "tower", streams(600, 0.05)))
        key = await place.key()
        await place.settled()
        shown = await certificate_of(place)
        request = request_bytes("/api/chat", json.dumps({"model": MODEL}).encode(), headers={"X-Api-Key": key})
        reader, _ = await parts.enter_async_context(sent(place.gateway.tls_port, request, tls(place)))
        assert (await read_head(reader)).status == 200
        await until(lambda: pem_of(shown) not in (place.gateway.state / "web.pem").read_bytes())
        place.gateway.reload()
        async with asyncio.timeout(60):
            while await certificate_of(place) == shown:
                await asyncio.sleep(0.05)
        for _ in range(20):
            assert await asyncio.wait_for(reader.readline(), 60), "the stream goes on with the old certificate"


def tls(place: Place) -> ssl.SSLContext:
    """What a client trusts: the cluster's authority."""
    return ssl.create_default_context(cadata=place.daemon.ca_pem().decode())


def pem_of(der: bytes) -> bytes:
    return ssl.DER_cert_to_PEM_cert(der).strip().encode()


async def certificate_of(place: Place) -> bytes:
    """Return the certificate that a new connection is shown, verified."""
    async with sent(place.gateway.tls_port, b"", tls(place)) as (_, writer):
        shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return shown
