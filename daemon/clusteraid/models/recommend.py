"""What to pull for this cluster's machines: pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from clusterai.v1.model_pb2 import FIT_GPU, FIT_MAIN_MEMORY, FIT_TIGHT
from clusteraid.models.catalogue import Entry, ModelType, SizeClass
from clusteraid.models.fit import gigabytes
from clusteraid.models.placement import Judged

_IN_MAIN_MEMORY = 7 * 10**9  # larger ones answer too slowly without a GPU
_TYPE_ORDER = tuple(ModelType)


@dataclass(frozen=True)
class Pick:
    """A model worth having, and why."""

    entry: Entry
    reason: str


def recommend(entries: Iterable[Entry], judged: Mapping[str, Sequence[Judged]]) -> tuple[Pick, ...]:
    """Return the best model of each type that some node can hold. `judged` has each entry's nodes, the best first."""
    picks: dict[ModelType, tuple[tuple[bool, int], Pick]] = {}
    for entry in entries:
        best = next((one for one in judged[entry.name] if _is_good(entry, one)), None)
        if best is None:
            continue
        weight = (best.memory == "gpu", entry.size_bytes)
        if entry.type not in picks or weight > picks[entry.type][0]:
            picks[entry.type] = (weight, Pick(entry, _reason(entry, best)))
    return tuple(picks[kind][1] for kind in _TYPE_ORDER if kind in picks)


def _is_good(entry: Entry, one: Judged) -> bool:
    if entry.type is ModelType.EMBEDDING and entry.size_class is not SizeClass.SMALL:
        return False  # small ones are nearly as good, and leave the memory to chats
    on_gpu = one.memory == "gpu" and one.fit in (FIT_GPU, FIT_TIGHT)
    return on_gpu or (one.fit == FIT_MAIN_MEMORY and entry.size_bytes <= _IN_MAIN_MEMORY)


def _reason(entry: Entry, one: Judged) -> str:
    where = f"on the GPU of {one.node_id}" if one.memory == "gpu" else f"in the main memory of {one.node_id}"
    limit = "" if one.memory == "gpu" else " and still answers at a bearable speed there"
    needed = f"needs {gigabytes(one.needed)} with its context, {gigabytes(one.free)} are free"
    return f"the largest {entry.type.value} model of the catalogue that fits {where}{limit}: {needed}"
