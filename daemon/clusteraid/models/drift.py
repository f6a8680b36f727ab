"""Where the cluster is not as it shall be: pure. Each finding has a sentence, and one that says how to mend it."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from clusterai.v1.model_pb2 import (
    DRIFT_KIND_CONTEXT,
    DRIFT_KIND_DIGEST,
    DRIFT_KIND_MISSING,
    DRIFT_KIND_VERSION,
    DriftKind,
)
from clusteraid.models.inventory import Desires
from clusteraid.models.observe import Observed
from clusteraid.models.ports import ClusterModel

_NODE_LOGS = "on the node: `systemctl status clusterai-agent`, `journalctl -u clusterai-agent`"
_UPDATE = "update Ollama on {node}, in the way in which it was installed there"
_RESTART = "its agent restarts Ollama when it is idle; at once: `sudo systemctl restart ollama` on {node}"


@dataclass(frozen=True)
class Drift:
    """One finding. `model` is empty when it is about the node as a whole."""

    kind: DriftKind
    model: str
    node_id: str
    message: str
    fix: str


def find_drift(
    nodes: Iterable[Observed], models: Iterable[ClusterModel], desires: Desires, context_length: int
) -> tuple[Drift, ...]:
    """Return all findings, by node within each kind: models first, then nodes as a whole."""
    known = {node.node_id: node for node in nodes}
    telling = [node for node in known.values() if node.tells_models]
    of_models = [drift for model in models for drift in _model_drift(model, known, desires)]
    of_nodes = [*_versions(telling), *_contexts(telling, context_length)]
    return (*of_models, *sorted(of_nodes, key=lambda drift: (drift.kind, drift.node_id, drift.model)))


def _model_drift(model: ClusterModel, nodes: dict[str, Observed], desires: Desires) -> Iterator[Drift]:
    wanted = desires.get(model.name)
    for copy in model.copies:
        node = nodes.get(copy.node_id)
        if copy.present or node is None:
            continue
        if (held := node.models.get(model.name)) is not None:
            other, ours = _short(held.digest), _short(model.digest)
            message = f"{copy.node_id} has {model.name} as {other}, the cluster's is {ours}"
            yield Drift(DRIFT_KIND_DIGEST, model.name, copy.node_id, message, f"`clusteractl model sync {model.name}`")
        elif wanted is not None and copy.node_id in wanted.present:
            message = f"{copy.node_id} shall have {model.name} and has not: {copy.reason}"
            yield Drift(DRIFT_KIND_MISSING, model.name, copy.node_id, message, _fix_of_missing(model.name, node))


def _fix_of_missing(name: str, node: Observed) -> str:
    if node.away:
        return node.hint or _NODE_LOGS
    pull = node.pulls.get(name)
    if pull is not None and pull.hint:
        return pull.hint
    return f"it goes on by itself; `clusteractl model pull {name} --node {node.node_id}` shows how far it is"


def _versions(nodes: Iterable[Observed]) -> Iterator[Drift]:
    """Compare with the newest: what a newer model needs, an older Ollama may not know."""
    versions = {node.node_id: node.version for node in nodes if node.version}
    newest = max(versions.values(), key=_ordered, default="")
    for node_id, version in versions.items():
        if version != newest:
            message = f"{node_id} runs Ollama {version}, the newest in the cluster is {newest}"
            yield Drift(DRIFT_KIND_VERSION, "", node_id, message, _UPDATE.format(node=node_id))


def _contexts(nodes: Iterable[Observed], context_length: int) -> Iterator[Drift]:
    for node in nodes:
        fix = _RESTART.format(node=node.node_id)
        if node.context_length not in (0, context_length):
            message = f"{node.node_id} was started with {node.context_length} tokens, the cluster's is {context_length}"
            yield Drift(DRIFT_KIND_CONTEXT, "", node.node_id, message, fix)
        for name, loaded in node.loaded.items():
            held = node.models.get(name)
            trained = held.info.shape.context_length if held is not None else 0
            least = min(context_length, trained or context_length)
            if 0 < loaded.context_length < least:
                message = f"{node.node_id} has {name} loaded with {loaded.context_length} tokens in place of {least}"
                yield Drift(DRIFT_KIND_CONTEXT, name, node.node_id, message, fix)


def _ordered(version: str) -> tuple[list[int], str]:
    return [int(part) for part in re.findall(r"\d{1,9}", version)[:4]], version


def _short(digest: bytes) -> str:
    return digest.hex()[:12] or "nothing yet"
