"""All models of the cluster, from what its nodes tell and what is wanted: pure."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter

from clusterai.v1.model_pb2 import FIT_UNABLE
from clusterai.v1.types_pb2 import PULL_STATE_FAILED, OllamaModel
from clusteraid.models.observe import Held, Observed
from clusteraid.models.ports import ClusterModel, Copy


@dataclass(frozen=True)
class Wanted:
    """A model that desired state names. `digest` is empty until the first node has it."""

    name: str
    digest: bytes = b""
    present: frozenset[str] = frozenset()  # the nodes that shall have it
    absent: frozenset[str] = frozenset()  # the nodes that shall lose it
    limit_bytes_per_second: int = 0
    chosen_count: int = 0  # of how many nodes the daemon chose the place; 0: somebody named them


Desires = Mapping[str, Wanted]


class Holdings:
    """Who holds what. A node that changes touches only the models of which it tells something else than before."""

    def __init__(self) -> None:
        self.nodes: dict[str, Observed] = {}
        self.servers: dict[str, Observed] = {}  # of these the ones on the server's own machine
        self._held: dict[str, dict[str, Held]] = {}

    @property
    def names(self) -> Iterable[str]:
        """The names of all models that some node holds."""
        return self._held.keys()

    def put(self, node: Observed) -> set[str]:
        """Take over what a node tells now; return the names of models that this may change."""
        before = self.nodes.get(node.node_id)
        self.nodes[node.node_id] = node
        if node.is_server:
            self.servers[node.node_id] = node
        else:
            self.servers.pop(node.node_id, None)
        held = {} if before is None else before.models
        touched = {name for name in held.keys() | node.models.keys() if held.get(name) != node.models.get(name)}
        for name in touched:
            if name in node.models:
                self._held.setdefault(name, {})[node.node_id] = node.models[name]
            else:
                self._forget(name, node.node_id)
        pulls = {} if before is None else before.pulls
        return touched | {name for name in pulls.keys() | node.pulls.keys() if pulls.get(name) != node.pulls.get(name)}

    def drop(self, node_id: str) -> set[str]:
        """Forget a node; return the names of models that it held."""
        node = self.nodes.pop(node_id, None)
        self.servers.pop(node_id, None)
        names = set() if node is None else set(node.models)
        for name in names:
            self._forget(name, node_id)
        return names

    def held(self, name: str) -> Mapping[str, Held]:
        """Return what nodes hold under that name."""
        return self._held.get(name, {})

    def model(self, name: str, wanted: Wanted | None) -> ClusterModel | None:
        """Return one model: its copies by node, and for each node that shall have it and has not one that is not there.

        None when no node holds it and none shall.
        """
        held, present = self.held(name), frozenset() if wanted is None else wanted.present
        if not held and not present:
            return None
        digest = wanted.digest if wanted is not None and wanted.digest else agreed_digest(held.values())
        copies = [one.good if one.digest == digest else one.drifted for one in held.values()]
        copies += [_missing(name, node_id, self.nodes.get(node_id)) for node_id in present - held.keys()]
        copies.sort(key=_node_id)
        first = min((node_id for node_id, one in held.items() if one.digest == digest), default=None)
        info = held[first].info if first is not None else OllamaModel(model=name)
        return ClusterModel(name, digest, info, tuple(copies), managed=bool(present))

    def _forget(self, name: str, node_id: str) -> None:
        self._held[name].pop(node_id, None)
        if not self._held[name]:
            del self._held[name]


_node_id = attrgetter("node_id")


def agreed_digest(held: Collection[Held]) -> bytes:
    """Return the digest that counts when none was fixed: with the most copies, then the newest, then the largest."""
    digests = {model.digest for model in held}
    if len(digests) < 2:
        return next(iter(digests), b"")
    counts = Counter(model.digest for model in held)
    newest: dict[bytes, float] = {}
    for model in held:
        newest[model.digest] = max(newest.get(model.digest, 0.0), model.info.modified_unix_seconds)
    return max(counts, key=lambda digest: (counts[digest], newest[digest], digest))


def _missing(name: str, node_id: str, node: Observed | None) -> Copy:
    """Return the copy that is not there. Its reason does not change while a pull goes on: it is told to clients."""
    reason = "it is being fetched"
    if node is None:
        reason = "this node is not in the cluster any more"
    elif node.away:
        reason = node.away
    elif (pull := node.pulls.get(name)) is not None and pull.state == PULL_STATE_FAILED:
        reason = f"fetching it failed: {pull.reason}"
    return Copy(node_id, False, False, False, FIT_UNABLE, reason)
