"""A node with an Ollama, as the daemon sees one: a real session that reports what a test wants, and hears its spec."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from clusterai.rpc import secure_channel
from clusterai.v1.model_pb2 import ListModelsRequest, ListModelsResponse, Model
from clusterai.v1.model_pb2_grpc import ModelServiceStub
from clusterai.v1.node_pb2 import NodeStatus
from clusterai.v1.types_pb2 import GpuFacts, ModelSpec, OllamaModel, OllamaSpec, OllamaStatus, PullStatus
from support.killable import KillableDaemon
from support.ollama_status import GB, ollama
from support.sim_node import SimNode, SimSession, operator, sim_node
from support.waiting import until

SOON = 60.0


class ModelNode:
    """One node; `models` and `pulls` are what it tells of, `spec` what it heard last."""

    def __init__(self, node: SimNode, session: SimSession, **others: Any) -> None:
        self.node, self.session, self._others = node, session, others
        self.models: dict[str, OllamaModel] = {}
        self.pulls: list[PullStatus] = []
        self.spec = session.welcome.spec.ollama
        self.listening = asyncio.create_task(self._listen(), name=f"hears {node.name}")

    async def tell(self, *models: OllamaModel, **others: Any) -> None:
        """Have these models too, and say so."""
        self.models |= {model.model: model for model in models}
        self._others |= others
        status: OllamaStatus = ollama(*self.models.values(), **{"pulls": self.pulls, **self._others})
        await self.session.report(NodeStatus(ollama=status))

    def wanted(self, name: str) -> ModelSpec | None:
        """Return what it shall do about a model."""
        return next((entry for entry in self.spec.models if entry.model == name), None)

    async def hears(self, condition: Callable[[OllamaSpec], bool]) -> OllamaSpec:
        """Wait for such a spec."""
        await until(lambda: condition(self.spec), SOON)
        return self.spec

    async def _listen(self) -> None:
        while True:
            self.spec = (await self.session.read_until("spec")).spec.ollama


@asynccontextmanager
async def model_node(
    daemon: KillableDaemon, name: str, *, gpu: int = 24 * GB, machine_id: str = "", **status: Any
) -> AsyncIterator[ModelNode]:
    """Enrol a node with an Ollama that has nothing yet, and let it report."""
    async with sim_node(daemon, name) as node, connected(node, gpu=gpu, machine_id=machine_id, **status) as made:
        yield made


@asynccontextmanager
async def connected(
    node: SimNode, *models: OllamaModel, gpu: int = 24 * GB, machine_id: str = "", **status: Any
) -> AsyncIterator[ModelNode]:
    """Open a session of the node and let it report."""
    gpus = [GpuFacts(index=0, memory_total_bytes=gpu)] if gpu else []
    session = await node.session(gpus=gpus, machine_id=machine_id)
    made = ModelNode(node, session, **status)
    try:
        await made.tell(*models)
        await made.hears(lambda spec: spec.HasField("settings"))
        yield made
    finally:
        made.listening.cancel()
        await asyncio.gather(made.listening, return_exceptions=True)
        session.call.cancel()


@asynccontextmanager
async def reconnected(
    daemon: KillableDaemon, before: SimNode, *models: OllamaModel, **others: Any
) -> AsyncIterator[ModelNode]:
    """Open a session of a node with a daemon that was started again, on another port."""
    port, enrolled = json.loads((daemon.state / "ports.json").read_bytes())["port"], before.enrolled
    async with secure_channel(
        f"127.0.0.1:{port}", ca_pem=enrolled.ca_pem, chain_pem=enrolled.chain_pem, key_pem=enrolled.key_pem
    ) as channel, connected(SimNode(before.name, enrolled, channel), *models, **others) as made:
        yield made


async def listed(daemon: KillableDaemon) -> ListModelsResponse:
    """Return what the daemon lists."""
    async with operator(daemon, ModelServiceStub) as stub:
        answer: ListModelsResponse = await stub.ListModels(ListModelsRequest(), timeout=60)
        return answer


async def listed_model(daemon: KillableDaemon, name: str) -> Model | None:
    """Return one model as the daemon lists it."""
    return next((model for model in (await listed(daemon)).models if model.model == name), None)
