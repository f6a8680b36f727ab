"""What models cost the daemon: 100 nodes with 50 models each, from a status on the wire to the new inventory."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from bench.measure import Figure, median, quantile
from clusterai.ids import ClusterId
from clusterai.v1.node_pb2 import Hello, NodeStatus, SessionRequest, SessionResponse
from clusterai.v1.types_pb2 import OllamaStatus
from clusteraid.config import GatewayConfig, ModelsConfig, SessionConfig
from clusteraid.events import Events
from clusteraid.models.desires import DesiredModels
from clusteraid.models.live import LiveModels
from clusteraid.models.specs import SpecMaker
from clusteraid.nodes import Counter, Nodes
from clusteraid.pools import Pools
from clusteraid.ports import CertificateRecord, Enrolment, Role
from clusteraid.sessions import Session, Sessions
from clusteraid.store import Store
from clusteraid.store_access import AccessStore
from clusteraid.store_models import ModelStore
from clusteraid.store_nodes import NodeStore
from support.ollama_status import GB, loaded, machine, model, ollama
from support.played_pool import PlayedPool

NODES, MODELS, MANAGED, UPDATES = 100, 50, 25, 200
_LONGEST_SECONDS = 30.0
_LATEST_MS = 250.0  # of the 500 to the gateway: it looks every 200 ms, and a burst waits for 50


def measure(nodes: int = NODES, models: int = MODELS) -> Iterator[Figure]:
    """Yield the figures."""
    yield from asyncio.run(_measure(nodes, models))


class Cluster:
    """Nodes with live sessions, and the models domain over them, on a real store."""

    def __init__(self, nodes: Nodes, sessions: Sessions, live: LiveModels, models: int) -> None:
        self.nodes, self.sessions, self.live, self.models = nodes, sessions, live, models
        self.open: dict[str, Session] = {}
        self.changed = asyncio.Event()
        live.on_changed(self.changed.set)

    async def connect(self) -> None:
        """Have every node open a session and tell of all models."""
        for node in tuple(self.nodes):
            hello = Hello(facts=machine(24 * GB, 64 * GB), status=NodeStatus(ollama=self.status()))
            self.open[node.node_id] = self.sessions.open(node.node_id, "192.0.2.1", hello, _unheard)

    def status(self, busy: int | None = None) -> OllamaStatus:
        """Return what a node says, with one of its models in memory."""
        held = [model(f"model-{number}:latest", str(number)) for number in range(self.models)]
        hot = [] if busy is None else [loaded(f"model-{busy}:latest", str(busy))]
        return ollama(*held, loaded=hot)

    async def updated(self, node_id: str, busy: int) -> float:
        """Return the seconds from a node's status on the wire until the listeners of the inventory were called."""
        wire = SessionRequest(status=NodeStatus(ollama=self.status(busy))).SerializeToString()
        self.changed.clear()
        begun = time.perf_counter()
        self.sessions.received(self.open[node_id], SessionRequest.FromString(wire))
        await asyncio.wait_for(self.changed.wait(), _LONGEST_SECONDS)
        return time.perf_counter() - begun

    async def lost(self, node_id: str) -> float:
        """Return the seconds from the end of a node's stream until the inventory is without it."""
        self.changed.clear()
        begun = time.perf_counter()
        await self.sessions.close(self.open.pop(node_id))
        await asyncio.wait_for(self.changed.wait(), _LONGEST_SECONDS)
        return time.perf_counter() - begun


def _no(*_: object) -> bool:
    return False


async def _unheard(message: SessionResponse) -> None:
    """Send nothing: what the daemon says is not measured."""


async def _measure(nodes: int, models: int) -> list[Figure]:
    async with _cluster(nodes, models) as cluster:
        names = [node.node_id for node in cluster.nodes]
        took, cpu = [], time.process_time()
        for number in range(UPDATES):
            took.append(await cluster.updated(names[number % nodes], (number + number // nodes) % models))
            await asyncio.sleep(0.06)  # the pause after a refresh is for bursts, and no cost
        cpu = (time.process_time() - cpu) / UPDATES
        gone = []
        for name in names[:20]:
            gone.append(await cluster.lost(name))
            await asyncio.sleep(0.06)
    what = f"{nodes} nodes with {models} models"
    return [
        Figure(f"status to inventory, {what}, median", median(took) * 1e3, "ms", limit=25),
        Figure(f"status to inventory, {what}, 99th percentile", quantile(took, 0.99) * 1e3, "ms", limit=_LATEST_MS),
        Figure("CPU of an update, all that follows from it", cpu * 1e3, "ms", limit=10),
        Figure("a lost node to inventory, worst of 20", max(gone) * 1e3, "ms", limit=_LATEST_MS),
    ]


@asynccontextmanager
async def _cluster(count: int, models: int) -> AsyncIterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="cai-bench-") as name:
        async with Store.open(Path(name) / "db") as store:
            access, node_store = AccessStore(store, ClusterId("c1")), NodeStore(store, ClusterId("c1"))
            for number in range(count):
                record = CertificateRecord(str(number), f"spiffe://c1/node/n{number}", 5e9)
                await access.enroll(Enrolment(f"n{number}", Role.NODE, record, 1.0))
            nodes = Nodes(node_store, Events(node_store), Pools(PlayedPool()), Counter(1))
            await nodes.load()
            desired = DesiredModels(ModelStore(store))
            for number in range(min(MANAGED, models)):
                await desired.place(f"model-{number}:latest", [f"n{each}" for each in range(count)], "bench")
            live = LiveModels(nodes, desired, SpecMaker(ModelsConfig(), GatewayConfig()), _no, _no, lambda _: 0)
            live.begin()
            sessions = Sessions(nodes, Events(node_store), SessionConfig(), lambda: ("h:1",), Counter(1))
            cluster = Cluster(nodes, sessions, live, models)
            keeping = asyncio.create_task(live.keep_current(), name="models")
            await cluster.connect()
            await asyncio.sleep(1.0)
            try:
                yield cluster
            finally:
                keeping.cancel()
                await asyncio.gather(keeping, return_exceptions=True)
                for session in cluster.open.values():
                    await session.close()
