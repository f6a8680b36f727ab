"""Which nodes shall have a model: pure. Every node is judged, and each judgement has its reason."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from clusterai.v1.model_pb2 import FIT_GPU, FIT_NONE, FIT_TIGHT, FIT_UNABLE, FIT_UNSPECIFIED, Fit
from clusteraid.models.fit import Memory, Need, gigabytes, judge_fit

DISK_SHARE = 1.05  # of a model's size has to be free where it shall go


class Where(Enum):
    """What a wish asks for."""

    BEST = "best"  # the best fitting nodes, so many
    NAMED = "named"
    GPUS = "gpus"  # every node on whose GPUs it fits


@dataclass(frozen=True)
class Wish:
    """Where a model shall be."""

    where: Where = Where.BEST
    node_ids: frozenset[str] = frozenset()
    count: int = 1


@dataclass(frozen=True)
class Place:
    """A node as placement sees it. `unable` says why nothing can be placed there; empty: it can.

    `later`: only because it is not connected now. Who names it places the model there all the same.
    """

    node_id: str
    memory: Memory
    unable: str = ""
    later: bool = False
    disk_free: int = 0  # 0: its agent cannot see it, and it is tried
    has_it: bool = False


@dataclass(frozen=True)
class Judged:
    """A node, judged for a model. `free` is of the memory it was compared with: "gpu" or "main"."""

    node_id: str
    fit: Fit
    reason: str
    needed: int = 0
    free: int = 0
    memory: str = ""
    has_it: bool = False
    later: bool = False
    chosen: bool = False


def place(wish: Wish, need: Need | None, places: Iterable[Place]) -> tuple[Judged, ...]:
    """Return all nodes: the chosen ones first, then by fit, those that have the model, most free memory, name.

    Without a need (nobody knows the model's size yet) every able node may be chosen, the largest first.
    """
    judged = sorted((judge(need, place) for place in places), key=_rank)
    chosen = _chosen(wish, judged)
    marked = [replace(one, chosen=one.node_id in chosen) for one in judged]
    return tuple(sorted(marked, key=lambda one: not one.chosen))


def judge(need: Need | None, place: Place) -> Judged:
    """Return how the model fits on one node."""
    memory = place.memory
    if need is None:
        fit = FIT_UNABLE if place.unable else FIT_UNSPECIFIED
        free, kind = (memory.gpu_free, "gpu") if memory.gpu_total else (memory.main_free, "main")
        reason = place.unable or "its size is not known before it was fetched"
        return Judged(place.node_id, fit, reason, 0, free, kind, place.has_it, place.later)
    found = judge_fit(need, memory)
    fit, reason, later = found.fit, found.reason, place.later and found.fit != FIT_NONE
    required = int(need.weights * DISK_SHARE)
    if place.unable and not (place.later and fit == FIT_NONE):
        fit, reason = FIT_UNABLE, place.unable
    elif not place.has_it and not place.later and 0 < place.disk_free < required:
        fit = FIT_UNABLE
        reason = f"needs {gigabytes(required)} on disk, has {gigabytes(place.disk_free)} free"
    return Judged(place.node_id, fit, reason, found.needed, found.free, found.memory, place.has_it, later)


def _rank(one: Judged) -> tuple[int, bool, bool, int, str]:
    """Sort by how well it fits; a fit that nobody knows is worth what the node's memory is."""
    return (one.fit, one.memory != "gpu", not one.has_it, -one.free, one.node_id)


def _chosen(wish: Wish, ranked: Sequence[Judged]) -> frozenset[str]:
    able = [one for one in ranked if one.fit not in (FIT_NONE, FIT_UNABLE)]
    if wish.where is Where.NAMED:
        later = [one for one in ranked if one.later]
        return frozenset(one.node_id for one in (*able, *later) if one.node_id in wish.node_ids)
    if wish.where is Where.GPUS:
        return frozenset(one.node_id for one in able if _on_gpus(one))
    return frozenset(one.node_id for one in able[: wish.count])


def _on_gpus(one: Judged) -> bool:
    return one.memory == "gpu" and one.fit in (FIT_GPU, FIT_TIGHT, FIT_UNSPECIFIED)
