"""Where the gateway would send a request now, and why: pure, by the rule of docs/inference.md."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from clusterai.v1.model_pb2 import FIT_GPU, FIT_MAIN_MEMORY, Fit
from clusteraid.models.ports import ClusterModel, Copy, PeerLoad

_CLOSEST = 5
_UNKNOWN = PeerLoad()


@dataclass(frozen=True)
class Step:
    """One node, in the order in which they would be tried. `in_flight` is None when the gateway does not answer."""

    node_id: str
    usable: bool
    loaded: bool
    in_flight: int | None
    slots: int
    fit: Fit
    reason: str


@dataclass(frozen=True)
class Explanation:
    """The choice for a model. `answer` is what a client is told when no node is usable; `closest` are known names."""

    model: str
    steps: tuple[Step, ...]
    answer: str = ""
    closest: tuple[str, ...] = ()


def explain(
    name: str, models: Iterable[ClusterModel], loads: Mapping[str, PeerLoad] | None, slots: int
) -> Explanation:
    """Return where a request for the model would go. `slots`: requests at a time for each loaded model."""
    known = {model.name: model for model in models}
    model = known.get(name)
    if model is None:
        return Explanation(name, (), f"there is no model {name} in this cluster", closest_names(name, known.values()))
    ordered = sorted(model.copies, key=lambda copy: _rank(copy, (loads or {}).get(copy.node_id, _UNKNOWN), slots))
    steps = tuple(_step(place, copy, loads, slots) for place, copy in enumerate(ordered))
    usable = any(step.usable for step in steps)
    return Explanation(name, steps, "" if usable else refusal(model))


def closest_names(name: str, models: Iterable[ClusterModel]) -> tuple[str, ...]:
    """Return the names of models that somebody may have meant."""
    return tuple(get_close_matches(name, sorted(model.name for model in models), _CLOSEST, 0.4))


def refusal(model: ClusterModel) -> str:
    """Return why nobody can answer for the model now, and what is being done, in a sentence for a client."""
    reasons = [f"{copy.node_id}: {copy.reason}" for copy in model.copies if not copy.usable and copy.reason]
    told = "; ".join(reasons[:4]) or "no node has it"
    return f"no node can serve {model.name} now: {told}"


def _rank(copy: Copy, load: PeerLoad, slots: int) -> tuple[bool, bool, bool, float, int, str]:
    """Usable and not failing, loaded, fewest in flight for each slot, best fit, name."""
    in_flight = load.in_flight / max(slots, 1)
    return (not copy.usable, load.failing, not copy.loaded, in_flight, copy.fit, copy.node_id)


def _step(place: int, copy: Copy, loads: Mapping[str, PeerLoad] | None, slots: int) -> Step:
    load = None if loads is None else loads.get(copy.node_id, _UNKNOWN)
    usable = copy.usable and not (load is not None and load.failing)
    return Step(
        copy.node_id, usable, copy.loaded, None if load is None else load.in_flight, slots, copy.fit,
        _reason(place, copy, load, slots),
    )


def _reason(place: int, copy: Copy, load: PeerLoad | None, slots: int) -> str:
    if not copy.usable:
        return copy.reason
    if load is not None and load.failing:
        return "it does not answer the gateway now; it is tried again as soon as it does"
    parts = ["has it loaded" if copy.loaded else "would have to load it first"]
    if load is not None:
        parts.append(f"{load.in_flight} of {slots} slots in use")
    parts.append(_FITS.get(copy.fit, "others have to be unloaded for it"))
    return ("would get the request: " if place == 0 else "") + ", ".join(parts)


_FITS: Mapping[Fit, str] = {FIT_GPU: "fits on its GPU", FIT_MAIN_MEMORY: "runs in main memory"}
