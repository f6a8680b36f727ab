"""The models of the cluster: where they are, where they shall be, what fits where, and why a request goes where."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass

from clusterai.models import normalised
from clusterai.v1.model_pb2 import DRIFT_KIND_DIGEST, FIT_NONE, FIT_UNABLE
from clusterai.v1.types_pb2 import OllamaModel, OllamaSettings
from clusteraid.models.catalogue import CatalogueFile, Entry, selected
from clusteraid.models.desires import DesiredModels
from clusteraid.models.drift import Drift, find_drift
from clusteraid.models.errors import NoPlace, NoSuchModel
from clusteraid.models.explain import Explanation, closest_names, explain
from clusteraid.models.fit import Need, memory_needed
from clusteraid.models.happenings import happenings
from clusteraid.models.inventory import Wanted, agreed_digest
from clusteraid.models.live import LiveModels
from clusteraid.models.observe import Observed, memory_of
from clusteraid.models.placement import Judged, Place, Where, Wish, place
from clusteraid.models.ports import ClusterModel, GatewayStatus
from clusteraid.models.progress import Progress, progress_of
from clusteraid.models.recommend import Pick, recommend
from clusteraid.nodes import Nodes
from clusteraid.ports import EventLog

_REASONS = 4
_FOLLOW_PAUSE_SECONDS = 0.25  # at most four messages a second
_LOOK_AGAIN_SECONDS = 5.0


@dataclass(frozen=True)
class Rated:
    """An entry of the catalogue with every node's judgement, the best first."""

    entry: Entry
    judged: tuple[Judged, ...]
    own: bool

    @property
    def fits(self) -> bool:
        """Whether some node can hold it."""
        return any(one.fit not in (FIT_NONE, FIT_UNABLE) for one in self.judged)


class Models:
    """What operators ask for. A wish that returned is on disk; nodes follow it in their own time."""

    def __init__(
        self, nodes: Nodes, live: LiveModels, desired: DesiredModels, catalogue: CatalogueFile, events: EventLog,
        gateway: GatewayStatus | None,
    ) -> None:
        self._nodes, self._live, self._desired, self._catalogue = nodes, live, desired, catalogue
        self._events, self._gateway = events, gateway
        live.on_lost(self._in_place_of, self._node_lost)
        live.on_observed(self._node_reported)

    @property
    def settings(self) -> OllamaSettings:
        """What every Ollama of the cluster is started with."""
        return self._live.settings

    @property
    def observed(self) -> Mapping[str, Observed]:
        """The nodes, each as far as models go."""
        return self._live.observed

    def wanted(self, name: str) -> Wanted:
        """Return what is wanted of a model."""
        return self._desired.find(name)

    @property
    def catalogue_version(self) -> str:
        """The version of the shipped catalogue."""
        return self._catalogue.catalogue.version

    def candidates(self, name: str, wish: Wish) -> tuple[Judged, ...]:
        """Return every node, judged for the model, the chosen ones first; raise NoSuchNode for an unknown one."""
        for node_id in wish.node_ids:
            self._nodes.find(node_id)
        return place(wish, self._need(self._info(name)), self._places(name))

    async def want(self, text: str, wish: Wish, by: str, limit: int | None = None) -> tuple[str, tuple[Judged, ...]]:
        """Have the nodes of the wish fetch the model; return its normalised name and every node, judged.

        `limit`: bytes per second for each copy over the LAN, 0 for none, None to leave it.

        Raises:
            BadModelName, NoSuchNode: of what was asked for.
            NoPlace: no node, or not every node that was named, can take it; nothing was changed.
        """
        name = normalised(text)
        judged = self._placed(name, wish)
        chosen = [one.node_id for one in judged if one.chosen]
        limit = self._desired.find(name).limit_bytes_per_second if limit is None else limit
        count = 0 if wish.where is Where.NAMED else len(chosen)
        await self._desired.place(name, chosen, by, limit=limit, chosen=count)
        self._follow_wishes()
        self._events.note("model-pulling", name, f"{by} wants {name} on {', '.join(sorted(chosen))}")
        return name, judged

    async def follow(self, name: str, node_ids: Sequence[str]) -> AsyncGenerator[Progress, None]:
        """Yield how far the nodes are, at most four times a second, until they have it or failed.

        Leaving does not stop them.
        """
        begun, told = self._progress(name, node_ids), None
        stale = {one.node_id: one.pull for one in begun.nodes}
        deadline = asyncio.get_running_loop().time() + _LOOK_AGAIN_SECONDS
        while True:
            moved = self._live.moved
            known_before = stale if asyncio.get_running_loop().time() < deadline else {}
            progress = self._progress(name, node_ids, known_before)
            if progress != told:
                yield progress
                told = progress
            if progress.done:
                return
            await asyncio.sleep(_FOLLOW_PAUSE_SECONDS)
            await _moved(moved)

    async def remove(self, text: str, node_ids: Sequence[str], by: str) -> tuple[str, ...]:
        """Have the model removed from these nodes, or from all that have it or shall have it; return them.

        Raises:
            BadModelName, NoSuchNode, NoSuchModel: of what was asked for.
        """
        name = normalised(text)
        for node_id in node_ids:
            self._nodes.find(node_id)
        wanted, observed = self._desired.find(name), self._live.observed
        having = {node.node_id for node in self._live.nodes() if name in node.models or name in node.pulls}
        targets = (having | wanted.present) & (frozenset(node_ids) or (having | wanted.present))
        if not targets:
            raise NoSuchModel(name, closest_names(name, self._live.models()))
        without = {one for one in targets - having if one in observed and observed[one].tells_models}
        await self._desired.unplace(name, targets - without, without)
        self._follow_wishes()
        self._events.note("model-removing", name, f"{by} removes {name} from {', '.join(sorted(targets))}")
        return tuple(sorted(targets))

    async def sync(self, text: str, by: str) -> tuple[Drift, ...]:
        """Have the nodes whose copies differ fetch the cluster's; return what is being mended.

        The cluster's content is what the server's own Ollama has, because that one can be spread. Where it has none
        each node fetches from the registry, and the newest copy is the cluster's from now on.

        Raises:
            BadModelName, NoSuchModel: of what was asked for.
        """
        name = normalised(text) if text else ""
        if name and self._live.find(name) is None:
            raise NoSuchModel(name, closest_names(name, self._live.models()))
        differing = sorted({one.model for one in self._differing() if name in ("", one.model)})
        for model in differing:
            await self._mend(model, by)
        self._follow_wishes()
        return tuple(one for one in self._differing() if one.model in differing)

    def models(self, text: str = "") -> tuple[ClusterModel, ...]:
        """Return all models by name, or the one; raise NoSuchModel."""
        if not text:
            return self._live.models()
        model = self._live.find(normalised(text))
        if model is None:
            raise NoSuchModel(normalised(text), closest_names(normalised(text), self._live.models()))
        return (model,)

    def drift(self) -> tuple[Drift, ...]:
        """Return where the cluster is not as it shall be."""
        context_length = self._live.setting.context_length
        return find_drift(self._live.nodes(), self._live.models(), self._desired.all, context_length)

    def catalogue(self, size_class: str = "", model_type: str = "", purpose: str = "") -> tuple[Rated, ...]:
        """Return the entries of that class, type and purpose (empty: any), each judged for every node."""
        catalogue = self._catalogue.catalogue
        entries = selected(catalogue.entries.values(), size_class, model_type, purpose)
        return tuple(
            Rated(entry, self.candidates(entry.name, Wish()), entry.name in catalogue.own) for entry in entries
        )

    def recommend(self, model_type: str = "", purpose: str = "") -> tuple[tuple[Pick, Rated], ...]:
        """Return the best model of each type for this cluster's machines."""
        rated = {one.entry.name: one for one in self.catalogue("", model_type, purpose)}
        picks = recommend([one.entry for one in rated.values()], {name: one.judged for name, one in rated.items()})
        return tuple((pick, rated[pick.entry.name]) for pick in picks)

    async def why(self, text: str) -> Explanation:
        """Return where a request for the model would go now."""
        loads = await self._gateway.fetch() if self._gateway is not None else None
        return explain(normalised(text), self._live.models(), loads, self._live.setting.parallel)

    def _placed(self, name: str, wish: Wish) -> tuple[Judged, ...]:
        judged = self.candidates(name, wish)
        chosen = {one.node_id for one in judged if one.chosen}
        refused = [one for one in judged if one.node_id in wish.node_ids and not one.chosen]
        if refused or not chosen:
            reasons = "; ".join(f"{one.node_id}: {one.reason}" for one in (refused or judged)[:_REASONS])
            raise NoPlace(model=name, where=_where(wish, refused), reasons=reasons or "there are no nodes")
        return judged

    def _differing(self) -> list[Drift]:
        return [one for one in self.drift() if one.kind == DRIFT_KIND_DIGEST]

    async def _mend(self, name: str, by: str) -> None:
        nodes = self._live.nodes()
        held = {node.node_id: node.models[name] for node in nodes if name in node.models}
        wanted = self._desired.find(name)
        server = held.get(self._live.supplied.server or "")
        newest = max(held.values(), key=lambda one: (one.info.modified_unix_seconds, one.digest))
        digest = server.digest if server is not None else newest.digest
        if not wanted.present:
            digest = server.digest if server is not None else agreed_digest(tuple(held.values()))
            await self._desired.place(name, held, by)
        await self._desired.fix(name, digest)
        self._events.note("model-syncing", name, f"{by} has {name} made the same on all nodes: {digest.hex()[:12]}")

    def _in_place_of(self, wanted: Wanted, node_id: str) -> frozenset[str]:
        """Choose other nodes for a model whose places the daemon chose."""
        left = wanted.present - {node_id}
        if wanted.chosen_count <= len(left):
            return frozenset()
        able = place(Wish(count=len(self._nodes)), self._need(self._info(wanted.name)), self._places(wanted.name))
        found = [one.node_id for one in able if one.chosen and one.node_id not in left]
        return frozenset(found[: wanted.chosen_count - len(left)])

    def _node_lost(self, wanted: Wanted, node_id: str, others: frozenset[str]) -> None:
        was = f"{wanted.name} was on {node_id}, which was removed"
        if others:
            self._events.note("model-pulling", wanted.name, f"{was}; it goes to {', '.join(sorted(others))}")
        elif wanted.chosen_count > len(wanted.present - {node_id}):
            self._events.note("model-unplaced", wanted.name, f"{was}; no other node can take it")

    def _node_reported(self, before: Observed | None, after: Observed) -> None:
        for kind, subject, message in happenings(before, after, self._desired.find, self._live.find):
            self._events.note(kind, subject, message)

    def _follow_wishes(self) -> None:
        """Have the inventory follow what is wanted now, and soon the nodes' specs."""
        self._live.refresh()
        self._live.touch()

    def _info(self, name: str) -> OllamaModel | None:
        """Return what is known of the model: from a node that has it, else from the catalogue."""
        model = self._live.find(name)
        if model is not None and model.info.size_bytes:
            return model.info
        return self._catalogue.catalogue.info(name)

    def _need(self, info: OllamaModel | None) -> Need | None:
        if info is None:
            return None
        return memory_needed(
            info.size_bytes, info.shape, self._live.setting, family=info.family, capabilities=info.capabilities
        )

    def _places(self, name: str) -> Iterable[Place]:
        for node in self._live.nodes():
            known = self._nodes.find(node.node_id)
            others = [loaded for model, loaded in node.loaded.items() if model != name]
            memory = memory_of(known.facts, others, known.sample if name not in node.loaded else None)
            yield Place(node.node_id, memory, node.away, node.later, node.disk_free, name in node.models)

    def _progress(self, name: str, node_ids: Sequence[str], stale: object = None) -> Progress:
        wanted = self._desired.find(name)
        return progress_of(
            name, node_ids, self._live.observed, wanted, self._live.supplied, stale if isinstance(stale, dict) else {}
        )


def _where(wish: Wish, refused: Sequence[Judged]) -> str:
    if refused:
        return f"on {', '.join(one.node_id for one in refused)}"
    return "on a GPU of any node" if wish.where is Where.GPUS else "on any node"


async def _moved(moved: asyncio.Event) -> None:
    """Wait for a change; what depends on time alone is looked at now and then."""
    try:
        async with asyncio.timeout(_LOOK_AGAIN_SECONDS):
            await moved.wait()
    except TimeoutError:
        return
