"""How far the fetching of a model is on the nodes that shall have it: pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clusterai.v1.types_pb2 import PULL_STATE_FAILED, PullStatus
from clusteraid.models.inventory import Wanted
from clusteraid.models.observe import Observed
from clusteraid.models.specs import Origin, Supply


@dataclass(frozen=True)
class NodeProgress:
    """One node. `ended` says why nothing more is to be expected of it for now; empty: it goes on, or has it."""

    node_id: str
    present: bool
    pull: PullStatus | None
    ended: str = ""
    away: str = ""  # why it does nothing now: it goes on when it is back


@dataclass(frozen=True)
class Progress:
    """All nodes that shall have the model, and the server before them when it fetches first."""

    nodes: tuple[NodeProgress, ...]
    done: bool
    message: str


def progress_of(
    name: str, node_ids: Sequence[str], nodes: Mapping[str, Observed], wanted: Wanted, supplied: Supply,
    stale: Mapping[str, PullStatus | None],
) -> Progress:
    """Return how far they are. `stale`: pulls as they were before; a failure among them is of an earlier attempt."""
    chosen = [_node_progress(name, node_id, nodes.get(node_id), wanted, stale) for node_id in sorted(node_ids)]
    first: list[NodeProgress] = []
    server = supplied.server
    if server is not None and server not in node_ids and supplied.origins.get(name) is Origin.WAIT:
        pull = nodes[server].pulls.get(name) if server in nodes else None
        first.append(NodeProgress(server, False, pull))
    having = sum(one.present for one in chosen)
    done = all(one.present or one.ended for one in chosen)
    return Progress((*first, *chosen), done, _message(name, chosen, having, fetched_first=bool(first)))


def _node_progress(
    name: str, node_id: str, node: Observed | None, wanted: Wanted, stale: Mapping[str, PullStatus | None]
) -> NodeProgress:
    if node is None:
        return NodeProgress(node_id, False, None, "it was removed from the cluster")
    pull, held = node.pulls.get(name), node.models.get(name)
    if held is not None and wanted.digest in (b"", held.digest):
        return NodeProgress(node_id, True, None)
    if node_id not in wanted.present:
        return NodeProgress(node_id, False, pull, "somebody removed the model from it")
    if _has_failed(pull) and not _has_failed(stale.get(node_id)):
        return NodeProgress(node_id, False, pull, (pull.reason if pull is not None else "") or "it failed")
    return NodeProgress(node_id, False, pull, away=node.away)


def _has_failed(pull: PullStatus | None) -> bool:
    return pull is not None and pull.state == PULL_STATE_FAILED


def _message(name: str, chosen: Sequence[NodeProgress], having: int, *, fetched_first: bool) -> str:
    ended = [f"{one.node_id}: {one.ended}" for one in chosen if one.ended]
    if ended:
        return f"{having} of {len(chosen)} nodes have {name}; " + "; ".join(ended[:4])
    if having == len(chosen):
        return f"{name} is on {', '.join(one.node_id for one in chosen)}"
    told = ["the server fetches it first"] if fetched_first else []
    told += [one.away for one in chosen if one.away][:4]
    return "; ".join((f"{having} of {len(chosen)} nodes have {name}", *told))
