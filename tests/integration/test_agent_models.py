"""The agent as a program with an Ollama beside it: what the server hears, what `status` shows, and what outlives it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from clusterai.models import GATEWAY_NAME
from clusterai.v1 import types_pb2 as types
from clusterai.v1.node_pb2 import Farewell, NodeSpec
from clusterai.v1.types_pb2 import ModelSpec, OllamaSpec, OllamaStatus
from clusterai_agent.home import Home
from fakes.ollama import FakeOllama, fake_ollama
from fakes.registry import FakeRegistry, make_model
from support.agent_program import agent, said
from support.gate_peers import gateway, is_let_in, through
from support.node_daemon import NodeDaemon, agent_toml
from support.ports import free_port
from support.waiting import until

LLAMA, SMALL = make_model(size_bytes=100_000), make_model("small:1b", size_bytes=1000, seed=3)


@dataclass
class Node:
    """A machine with an Ollama and an agent that has joined."""

    daemon: NodeDaemon
    ollama: FakeOllama
    config: Path
    gate_port: int = field(default_factory=free_port)

    @property
    def told(self) -> OllamaStatus:
        """What the server heard last."""
        if not self.daemon.streams:
            return OllamaStatus()
        return [self.daemon.last.hello.status, *self.daemon.last.statuses][-1].ollama

    def names(self) -> list[str]:
        return [model.model for model in self.told.models]

    def want(self, *models: ModelSpec, gate: bool = True) -> None:
        """Make this the node's desired state, and tell it."""
        ollama = OllamaSpec(models=models, gate_port=self.gate_port * gate, gateway_name=GATEWAY_NAME * gate)
        self.daemon.spec = NodeSpec(generation=2, ollama=ollama)
        if self.daemon.streams and not self.daemon.last.closed:
            self.daemon.last.send(spec=self.daemon.spec)


@asynccontextmanager
async def node(directory: Path, *, extra: str = "") -> AsyncIterator[Node]:
    async with (
        NodeDaemon.serving() as daemon,
        FakeRegistry([LLAMA]) as registry,
        fake_ollama(directory / "models", FAKE_OLLAMA_REGISTRY=registry.url) as ollama,
    ):
        daemon.enrol(Home(directory / "agent"))
        section = f'[ollama]\naddress = "127.0.0.1:{ollama.port}"\nmirror_port = {free_port()}\n{extra}'
        yield Node(daemon, ollama, agent_toml(directory, daemon.address, extra=section))


async def test_the_hello_tells_of_models_and_status_shows_them(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        SMALL.install(here.ollama.settings.models)
        async with agent(here.config):
            await until(lambda: here.daemon.streams)
            hello = here.daemon.last.hello.status.ollama
            assert [model.model for model in hello.models] == ["small:1b"]
            assert hello.state == types.SERVICE_STATE_READY
            here.want(ModelSpec(model="llama3.2:3b", digest=bytes.fromhex(LLAMA.digest)))
            await until(lambda: here.names() == ["llama3.2:3b", "small:1b"])
            await until(lambda: here.told.gate.state == types.SERVICE_STATE_READY)
            assert await is_let_in_plainly(here, tmp_path)
            _, shown, _ = await said(here.config, "status")
            for line in (
                "ollama 0.31.1: ready", f"gate on port {here.gate_port}: ready", "model llama3.2:3b: 0.0 GB",
                "model small:1b: 0.0 GB",
            ):  # fmt: skip
                assert line in shown.splitlines()
            ollama = json.loads((await said(here.config, "status", "--json"))[1])["ollama"]
            assert (ollama["state"], ollama["gate"]["state"]) == ("ready", "ready")
            assert {model["name"]: model["digest"] for model in ollama["models"]}["small:1b"] == SMALL.digest
            here.want(gate=False)
            await until(lambda: here.told.gate.state == types.SERVICE_STATE_STOPPED)


async def is_let_in_plainly(here: Node, directory: Path) -> bool:
    """Whether the gateway's certificate opens the gate, and none does not."""
    file, authority = gateway(directory, here.daemon.cluster_ca), here.daemon.cluster_ca
    assert not await is_let_in(here.gate_port, authority, None)
    async with through(here.gate_port, authority, file) as wire:
        request = b"GET /api/version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        return b"0.31.1" in await wire.asked(request)


async def test_the_gate_stays_open_when_the_agent_is_killed_and_is_found_again(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        here.want()
        async with agent(here.config) as first:
            await until(lambda: here.told.gate.state == types.SERVICE_STATE_READY)
            await first.kill()
            assert await is_let_in_plainly(here, tmp_path)
        async with agent(here.config):
            await until(lambda: here.told.gate.state == types.SERVICE_STATE_READY)
            assert await is_let_in_plainly(here, tmp_path)
            here.want(gate=False)
            await until(lambda: here.told.gate.state == types.SERVICE_STATE_STOPPED)


async def test_a_removed_node_closes_its_gate_and_keeps_its_models(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        SMALL.install(here.ollama.settings.models)
        here.want()
        async with agent(here.config):
            await until(lambda: here.told.gate.state == types.SERVICE_STATE_READY)
            here.daemon.last.send(farewell=Farewell(reason=Farewell.REASON_REVOKED, detail="removed"))
            await until(lambda: not (tmp_path / "agent/gate/gate.pem").exists())
            file = gateway(tmp_path, here.daemon.cluster_ca)
            assert not await is_let_in(here.gate_port, here.daemon.cluster_ca, file)
        assert [str(model.name) for model in here.ollama.store.models()] == ["small:1b"]


async def test_switched_off_the_server_hears_nothing_of_models(tmp_path: Path) -> None:
    async with node(tmp_path, extra="enabled = false\n") as here:
        here.want(ModelSpec(model="llama3.2:3b"))
        async with agent(here.config):
            await until(lambda: here.daemon.streams and here.daemon.last.heartbeats)
            assert not here.daemon.last.hello.status.HasField("ollama")
        assert not here.ollama.requests
