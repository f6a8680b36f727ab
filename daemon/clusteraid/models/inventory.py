"""All models of the cluster, from what its nodes tell and what is wanted: pure."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

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


def cluster_models(nodes: Sequence[Observed], desires: Desires) -> tuple[ClusterModel, ...]:
    """Return all models by name, each with its copies by node."""
    held: dict[str, list[tuple[str, Held]]] = {name: [] for name, wanted in desires.items() if wanted.present}
    by_id = {node.node_id: node for node in sorted(nodes, key=lambda node: node.node_id)}
    for node_id, node in by_id.items():
        for name, model in node.models.items():
            held.setdefault(name, []).append((node_id, model))
    return tuple(_merged(name, held[name], desires.get(name), by_id) for name in sorted(held))


def _merged(
    name: str, held: Sequence[tuple[str, Held]], wanted: Wanted | None, nodes: Mapping[str, Observed]
) -> ClusterModel:
    """Return one model: its copies, and a copy that is not there yet for each node that shall have it."""
    digest = wanted.digest if wanted is not None and wanted.digest else agreed_digest([model for _, model in held])
    copies = [model.good if model.digest == digest else model.drifted for _, model in held]
    if wanted is not None and wanted.present:
        missing = wanted.present - {node_id for node_id, _ in held}
        copies += [_missing(name, node_id, nodes.get(node_id)) for node_id in missing]
        copies.sort(key=lambda copy: copy.node_id)
    info = next((model.info for _, model in held if model.digest == digest), None) or OllamaModel(model=name)
    return ClusterModel(name, digest, info, tuple(copies), wanted is not None and bool(wanted.present))


def agreed_digest(held: Collection[Held]) -> bytes:
    """Return the digest that counts when none was fixed: with the most copies, then the newest, then the largest."""
    counts = Counter(model.digest for model in held)
    if len(counts) < 2:
        return next(iter(counts), b"")
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
