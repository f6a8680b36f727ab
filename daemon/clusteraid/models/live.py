"""The models of the cluster as of now: what nodes tell, joined with what is wanted, soon after each change."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from clusterai.v1.types_pb2 import PULL_STATE_FAILED, OllamaSpec
from clusteraid.models.desires import DesiredModels
from clusteraid.models.fit import Setting
from clusteraid.models.inventory import Wanted, agreed_digest, cluster_models
from clusteraid.models.observe import Observed, Source, observe
from clusteraid.models.ports import ClusterModel
from clusteraid.models.specs import SpecMaker, Supply, supply
from clusteraid.nodes import Node, Nodes
from clusteraid.store import StoreUnavailable

log = logging.getLogger(__name__)
_PAUSE_SECONDS = 0.05  # many changes at once are taken as one
_RETRY_SECONDS = 2.0


class LiveModels:
    """The cluster's inventory. `own_machine` is this machine's id as agents tell theirs: that node is the server's."""

    def __init__(
        self, nodes: Nodes, desired: DesiredModels, specs: SpecMaker, own_machine: str, size_of: Callable[[str], int]
    ) -> None:
        self._nodes, self._desired, self._specs = nodes, desired, specs
        self._own_machine, self._size_of = own_machine, size_of
        self.settings = specs.settings
        self.setting = Setting(self.settings.context_length, self.settings.parallel_count)
        self._observed: dict[str, Observed] = {}
        self._models: dict[str, ClusterModel] = {}
        self._refused: dict[str, object] = {}  # what the server has failed to fetch, until it has it
        self._supply = Supply(None, {})
        self._listeners: list[Callable[[], None]] = []
        self._watchers: list[Callable[[Observed | None, Observed], None]] = []
        self._on_lost: Callable[[Wanted, str], Awaitable[None]] = _leave
        self._dirty = asyncio.Event()
        self._moved = asyncio.Event()  # replaced at each refresh: waiters hold the old one

    def begin(self) -> None:
        """Look at the nodes that are known, and listen to them from now on; once, after loading."""
        for node in self._nodes:
            self._node_changed(node)
        self._nodes.on_reported(self._node_changed)
        self._nodes.on_changed(self._node_changed)
        self._nodes.plan_models(self._planned)
        self.refresh()

    def models(self) -> tuple[ClusterModel, ...]:
        """Return all models by name."""
        return tuple(self._models.values())

    def find(self, name: str) -> ClusterModel | None:
        """Return the model of that normalised name."""
        return self._models.get(name)

    def nodes(self) -> tuple[Observed, ...]:
        """Return all nodes by name, as far as models go."""
        return tuple(self._observed[node_id] for node_id in sorted(self._observed))

    @property
    def observed(self) -> Mapping[str, Observed]:
        """The nodes, each as far as models go."""
        return self._observed

    @property
    def supplied(self) -> Supply:
        """From where models are fetched now."""
        return self._supply

    @property
    def moved(self) -> asyncio.Event:
        """Is set at the next change of anything, the progress of pulls too."""
        return self._moved

    def on_changed(self, listener: Callable[[], None]) -> None:
        """Call the listener after each change of what `models` returns."""
        self._listeners.append(listener)

    def on_observed(self, watcher: Callable[[Observed | None, Observed], None]) -> None:
        """Call the watcher with what was known of a node before, and what is known now."""
        self._watchers.append(watcher)

    def on_lost(self, listener: Callable[[Wanted, str], Awaitable[None]]) -> None:
        """Call the listener with each model, as it was wanted, whose node was removed from the cluster."""
        self._on_lost = listener

    def touch(self) -> None:
        """Note that something changed: it is looked at soon."""
        self._dirty.set()

    def refresh(self) -> None:
        """Work out everything anew, and tell who listens if it differs."""
        self._dirty.clear()
        models = {model.name: model for model in cluster_models(tuple(self._observed.values()), self._desired.all)}
        changed, self._models = models != self._models, models
        supplied = supply(self._desired.all, self._observed.values(), self._refused, self.size_of)
        if supplied != self._supply:
            self._supply = supplied
        self._moved.set()
        self._moved = asyncio.Event()
        if changed:
            for listener in self._listeners:
                listener()

    def respec(self) -> None:
        """Have the nodes' specs follow what is wanted now."""
        for node in self._nodes:
            self._nodes.update_spec(node)

    def size_of(self, name: str) -> int:
        """Return a model's size in bytes as a node or the catalogue tells it; 0: not known."""
        model = self._models.get(name)
        return (model.info.size_bytes if model is not None else 0) or self._size_of(name)

    async def keep_current(self) -> None:
        """Follow the changes, for ever: the inventory first, then the store, then the nodes' specs."""
        while True:
            await self._dirty.wait()
            desired, supplied = dict(self._desired.all), self._supply
            self.refresh()
            try:
                await self._settle()
            except StoreUnavailable as error:
                log.warning("what nodes told of models is noted when the store can be written: %s", error)
                asyncio.get_running_loop().call_later(_RETRY_SECONDS, self.touch)
            if (desired, supplied) != (self._desired.all, self._supply):
                self.respec()
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _settle(self) -> None:
        """Write what nodes settled: the digest of a model that nobody had, and removals that are done."""
        settled = await self._forget_strangers()
        for name, wanted in tuple(self._desired.all.items()):
            if wanted.present and not wanted.digest and (digest := self._first_digest(name)):
                await self._desired.fix(name, digest)
                settled = True
            gone = [(name, node_id) for node_id in wanted.absent if self._is_gone(name, node_id)]
            if gone:
                await self._desired.gone(gone)
                settled = True
        if settled:
            self.refresh()

    async def _forget_strangers(self) -> bool:
        """Forget what nodes that were removed should have had; who listens may choose others."""
        named = {node_id for wanted in self._desired.all.values() for node_id in wanted.present | wanted.absent}
        strangers = sorted(named - self._observed.keys())
        if any(not node.heard and not node.silent for node in self._observed.values()):
            return False  # right after a start: who could take their place is not known yet
        for node_id in strangers:
            lost = await self._desired.forget_node(node_id)
            self.refresh()
            for wanted in lost:
                await self._on_lost(wanted, node_id)
        return bool(strangers)

    def _first_digest(self, name: str) -> bytes:
        """Return the digest to fix: the server's copy is the one that the others fetch."""
        server = self._observed.get(self._supply.server or "")
        if server is not None and name in server.models:
            return server.models[name].digest
        return agreed_digest([node.models[name] for node in self._observed.values() if name in node.models])

    def _is_gone(self, name: str, node_id: str) -> bool:
        """Whether the node says that it has no such model. One that lost its Ollama says nothing about that."""
        node = self._observed.get(node_id)
        return node is not None and node.tells_models and name not in node.models and name not in node.pulls

    def _node_changed(self, node: Node) -> None:
        """Take over what the node is now; when it was removed, forget it."""
        if not self._nodes.has(node):
            if self._observed.pop(node.node_id, None) is not None:
                self.touch()
            return
        status = node.status.ollama if node.status.HasField("ollama") else None
        is_server = bool(self._own_machine) and node.facts.machine_id == self._own_machine
        before = self._observed.get(node.node_id)
        after = observe(Source(node.entry, node.heard_once, node.facts, status, is_server), self.setting)
        if after == before:
            return
        self._observed[node.node_id] = after
        if after.is_server:
            self._note_refusals(after)
        for watcher in self._watchers:
            watcher(before, after)
        self.touch()

    def _note_refusals(self, server: Observed) -> None:
        """Remember what the server could not fetch: the others, who fetch by themselves then, need not stop again."""
        for name, pull in server.pulls.items():
            if pull.state == PULL_STATE_FAILED:
                self._refused[name] = True
        self._refused = {
            name: True for name in self._refused if name not in server.models and name in self._desired.all
        }

    def _planned(self, node: Node) -> OllamaSpec | None:
        """Return what the node's Ollama shall have; None for an agent that knows nothing of models."""
        observed = self._observed.get(node.node_id)
        if observed is None or not node.status.HasField("ollama"):
            return None
        return self._specs.make(observed, self._desired.all, self._supply)


async def _leave(wanted: Wanted, node_id: str) -> None:
    """Choose no other node."""
