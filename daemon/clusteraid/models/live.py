"""The models of the cluster as of now: what nodes tell, joined with what is wanted, soon after each change."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from operator import is_

from clusterai.v1.types_pb2 import PULL_STATE_FAILED, OllamaSpec
from clusteraid.models.desires import Chooser, DesiredModels
from clusteraid.models.fit import Setting
from clusteraid.models.inventory import Desires, Holdings, Wanted, agreed_digest
from clusteraid.models.observe import Observed, Source, observe
from clusteraid.models.ports import ClusterModel
from clusteraid.models.specs import SpecMaker, Supply, supply
from clusteraid.nodes import Node, Nodes
from clusteraid.store import StoreUnavailable

log = logging.getLogger(__name__)
_PAUSE_SECONDS = 0.05  # many changes at once are taken as one
_RETRY_SECONDS = 2.0


class LiveModels:
    """The cluster's inventory. `is_own` knows the server's own node, `has_mirror` whether others can fetch from there.

    `size_of` returns a model's size in bytes before any node has it; 0: not known.
    """

    def __init__(
        self,
        nodes: Nodes,
        desired: DesiredModels,
        specs: SpecMaker,
        is_own: Callable[[Node], bool],
        has_mirror: Callable[[], bool],
        size_of: Callable[[str], int],
    ) -> None:
        self._nodes, self._desired, self._specs = nodes, desired, specs
        self._is_own, self._has_mirror, self._size_of = is_own, has_mirror, size_of
        self.settings = specs.settings
        self.setting = Setting(self.settings.context_length, self.settings.parallel_count)
        self._holdings = Holdings()
        self._looked: dict[str, tuple[object, ...]] = {}  # at what of each node; these are replaced, never changed
        self._touched: set[str] = set()  # names of models that may have changed since the last refresh
        self._models: dict[str, ClusterModel] = {}
        self._refused: dict[str, object] = {}  # what the server has failed to fetch, until it has it
        self._supply = Supply(None, {})
        self._told: tuple[Desires, Supply] = {}, self._supply  # what specs were made of
        self._listeners: list[Callable[[], None]] = []
        self._watchers: list[Callable[[Observed | None, Observed], None]] = []
        self._choose: Chooser = lambda *_: frozenset()  # nobody
        self._on_lost: Callable[[Wanted, str, frozenset[str]], None] = lambda *_: None
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
        return tuple(self._models[name] for name in sorted(self._models))

    def find(self, name: str) -> ClusterModel | None:
        """Return the model of that normalised name."""
        return self._models.get(name)

    def nodes(self) -> tuple[Observed, ...]:
        """Return all nodes by name, as far as models go."""
        return tuple(self.observed[node_id] for node_id in sorted(self.observed))

    @property
    def observed(self) -> Mapping[str, Observed]:
        """The nodes, each as far as models go."""
        return self._holdings.nodes

    @property
    def supplied(self) -> Supply:
        """From where models are fetched now."""
        return self._supply

    @property
    def moved(self) -> asyncio.Event:
        """Is set at the next change of anything, the progress of pulls too."""
        return self._moved

    def copy_limit(self) -> int:
        """Return the bytes per second for each copy over the LAN: the lowest asked for of what is being copied."""
        limits = [
            wanted.limit_bytes_per_second
            for name, wanted in self._desired.all.items()
            if wanted.limit_bytes_per_second and self._is_under_way(name)
        ]
        return min(limits, default=0)

    def _is_under_way(self, name: str) -> bool:
        model = self._models.get(name)
        return model is not None and not all(copy.present for copy in model.copies)

    def on_changed(self, listener: Callable[[], None]) -> None:
        """Call the listener after each change of what `models` returns."""
        self._listeners.append(listener)

    def on_observed(self, watcher: Callable[[Observed | None, Observed], None]) -> None:
        """Call the watcher with what was known of a node before, and what is known now."""
        self._watchers.append(watcher)

    def on_lost(self, choose: Chooser, listener: Callable[[Wanted, str, frozenset[str]], None]) -> None:
        """For each model, as it was wanted, whose node was removed from the cluster: ask who takes its place.

        The listener hears of it when that is on disk.
        """
        self._choose, self._on_lost = choose, listener

    def touch(self) -> None:
        """Note that something changed: it is looked at soon."""
        self._dirty.set()

    def refresh(self) -> None:
        """Work out everything anew, and tell who listens if it differs."""
        self._refresh({*self._holdings.names, *self._models, *self._desired.all})

    def _refresh(self, names: set[str]) -> None:
        """Work these models out anew."""
        self._dirty.clear()
        self._touched = set()
        changed = False
        for name in names:
            model = self._holdings.model(name, self._desired.all.get(name))
            if model != self._models.get(name):
                changed = True
                self._replace(name, model)
        self._resupply()
        self._moved.set()
        self._moved = asyncio.Event()
        if changed:
            for listener in self._listeners:
                listener()

    def _resupply(self) -> None:
        self._supply = supply(self._desired.all, self._holdings.servers.values(), self._refused, self.size_of)

    def _replace(self, name: str, model: ClusterModel | None) -> None:
        if model is None:
            del self._models[name]
        else:
            self._models[name] = model

    def _respec(self) -> None:
        """Have the nodes' specs follow what is wanted now."""
        self._told = dict(self._desired.all), self._supply
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
            self._refresh(self._touched)
            try:
                await self._settle()
            except StoreUnavailable as error:
                log.warning("what nodes told of models is noted when the store can be written: %s", error)
                asyncio.get_running_loop().call_later(_RETRY_SECONDS, self.touch)
            if self._told != (self._desired.all, self._supply):
                self._respec()
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
        """Forget what nodes that were removed should have had; others may take their place."""
        named = {node_id for wanted in self._desired.all.values() for node_id in wanted.present | wanted.absent}
        strangers = sorted(named - self.observed.keys())
        if not strangers or any(not node.heard and not node.silent for node in self.observed.values()):
            return False  # the latter right after a start: who could take their place is not known yet
        for node_id in strangers:
            lost = await self._desired.forget_node(node_id, self._choose)
            self.refresh()
            for wanted, others in lost:
                self._on_lost(wanted, node_id, others)
        return True

    def _first_digest(self, name: str) -> bytes:
        """Return the digest to fix: the server's copy is the one that the others fetch."""
        server = self.observed.get(self._supply.server or "")
        if server is not None and name in server.models:
            return server.models[name].digest
        return agreed_digest(self._holdings.held(name).values())

    def _is_gone(self, name: str, node_id: str) -> bool:
        """Whether the node says that it has no such model. One that lost its Ollama says nothing about that."""
        node = self.observed.get(node_id)
        return node is not None and node.tells_models and name not in node.models and name not in node.pulls

    def _node_changed(self, node: Node) -> None:
        """Take over what the node is now; when it was removed, forget it."""
        if not self._nodes.has(node):
            self._touched |= self._holdings.drop(node.node_id) | self._wanted_on(node.node_id)
            self._looked.pop(node.node_id, None)
            self.touch()
            return
        looked = (node.entry, node.facts, node.status, node.heard_once)
        if all(map(is_, looked, self._looked.get(node.node_id, (None,)))):
            return
        self._looked[node.node_id] = looked
        status = node.status.ollama if node.status.HasField("ollama") else None
        is_server = self._is_own(node) and self._has_mirror()
        before = self.observed.get(node.node_id)
        after = observe(Source(node.entry, node.heard_once, node.facts, status, is_server), self.setting)
        if after == before:
            return
        touched = self._holdings.put(after)
        if before is None or before.away != after.away:
            touched |= self._wanted_on(node.node_id)
        self._touched |= touched
        if after.is_server:
            self._note_refusals(after)
            self._resupply()  # its own spec follows at once
        for watcher in self._watchers:
            watcher(before, after)
        self.touch()

    def _wanted_on(self, node_id: str) -> set[str]:
        return {name for name, wanted in self._desired.all.items() if node_id in wanted.present}

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
        observed = self.observed.get(node.node_id)
        if observed is None or not node.status.HasField("ollama"):
            return None
        return self._specs.make(observed, self._desired.all, self._supply)
