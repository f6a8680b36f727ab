"""The models domain's values as wire messages."""

from collections.abc import Iterable, Mapping

from clusterai.v1 import model_pb2 as pb
from clusteraid.models.catalogue import Entry
from clusteraid.models.drift import Drift
from clusteraid.models.explain import Explanation
from clusteraid.models.inventory import Wanted
from clusteraid.models.models import Rated
from clusteraid.models.observe import Observed
from clusteraid.models.placement import Judged
from clusteraid.models.ports import ClusterModel
from clusteraid.models.progress import Progress


def candidates(judged: Iterable[Judged]) -> list[pb.Candidate]:
    """Every node, judged."""
    return [
        pb.Candidate(
            node_id=one.node_id, chosen=one.chosen, fit=one.fit, reason=one.reason, needed_bytes=one.needed,
            free_bytes=one.free, memory=one.memory,
        )
        for one in judged
    ]


def pull_step(name: str, progress: Progress) -> pb.PullModelResponse:
    """How far a pull is."""
    nodes = [pb.NodePull(node_id=one.node_id, present=one.present, pull=one.pull) for one in progress.nodes]
    return pb.PullModelResponse(model=name, nodes=nodes, done=progress.done, message=progress.message)


def model(known: ClusterModel, wanted: Wanted, nodes: Mapping[str, Observed]) -> pb.Model:
    """A model with its copies."""
    info = known.info
    return pb.Model(
        model=known.name, digest=known.digest, size_bytes=info.size_bytes, family=info.family,
        parameter_size=info.parameter_size, quantization=info.quantization, capabilities=info.capabilities,
        context_length=info.shape.context_length, managed=known.managed,
        copies=[
            pb.ModelCopy(
                node_id=copy.node_id, present=copy.present, loaded=copy.loaded, usable=copy.usable, reason=copy.reason,
                wanted=copy.node_id in wanted.present, vram_bytes=copy.vram_bytes,
                pull=nodes[copy.node_id].pulls.get(known.name) if copy.node_id in nodes else None,
            )
            for copy in known.copies
        ],
    )


def drifts(found: Iterable[Drift]) -> list[pb.Drift]:
    """Where the cluster is not as it shall be."""
    return [
        pb.Drift(kind=one.kind, model=one.model, node_id=one.node_id, message=one.message, fix=one.fix)
        for one in found
    ]


def catalog_entry(rated: Rated) -> pb.CatalogEntry:
    """An entry of the catalogue, judged."""
    entry: Entry = rated.entry
    return pb.CatalogEntry(
        model=entry.name, title=entry.title, size_class=entry.size_class.value, type=entry.type.value,
        purposes=[purpose.value for purpose in entry.purposes], size_bytes=entry.size_bytes, licence=entry.licence,
        context_length=entry.context_length, parameter_size=entry.parameters, own=rated.own,
        candidates=candidates(rated.judged),
    )


def explanation(found: Explanation) -> pb.ExplainRouteResponse:
    """Where a request would go."""
    peers = [
        pb.RouteStep(
            node_id=step.node_id, usable=step.usable, loaded=step.loaded, in_flight_count=step.in_flight or 0,
            slot_count=step.slots, fit=step.fit, reason=step.reason,
        )
        for step in found.steps
    ]
    return pb.ExplainRouteResponse(model=found.model, peers=peers, answer=found.answer, closest=found.closest)
