"""What one node's status tells of its models, made safe: nodes may be wrong, old, or lie.

Names are normalised or dropped, digests must be digests, sizes are bounded, text is printable and short, and no node
tells of more than a bounded number of models.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from clusterai.models import BadModelName, ModelName
from clusterai.v1.model_pb2 import FIT_GPU, FIT_MAIN_MEMORY, FIT_NONE, FIT_UNABLE, Fit
from clusterai.v1.types_pb2 import (
    SERVICE_STATE_ABSENT,
    SERVICE_STATE_READY,
    SERVICE_STATE_STARTING,
    SERVICE_STATE_UNSPECIFIED,
    LoadedModel,
    NodeFacts,
    OllamaModel,
    OllamaStatus,
    PullStatus,
    Sample,
    ServiceState,
)
from clusteraid.models.fit import MAIN_SHARE, Memory, Setting, judge_fit, memory_needed
from clusteraid.models.ports import Copy
from clusteraid.registry import Desired, Link, NodeEntry, Rest
from clusteraid.text import printable

_MODEL_LIMIT, _LOADED_LIMIT, _GPU_LIMIT, _CAPABILITY_LIMIT = 512, 64, 64, 16
_REASON_LIMIT, _DIGEST_BYTES = 300, 32
_MOST_BYTES = 1 << 46  # 64 TiB: no model and no memory is larger
_LOOPBACK = ("127.", "localhost")  # names of copies that are being fetched from the mirror


class _Named(Protocol):
    @property
    def model(self) -> str: ...


N = TypeVar("N", bound=_Named)


@dataclass(frozen=True)
class Held:
    """A model on a node's disk. `good` is its copy if the cluster counts on this digest, `drifted` if on another."""

    digest: bytes
    info: OllamaModel
    good: Copy
    drifted: Copy


@dataclass(frozen=True)
class Observed:
    """A node as far as models go."""

    node_id: str
    heard: bool  # its agent reported since the daemon started
    silent: bool  # offline: not heard for the whole grace time
    has_ollama: bool
    tells_models: bool  # its Ollama answers now: what is not in `models` is not there
    unable: str  # why it can serve nothing now; empty: it can
    away: str  # why nothing can be placed there now
    later: bool  # only because it is not connected, or its Ollama is starting: it will have one
    hint: str
    models: Mapping[str, Held]
    loaded: Mapping[str, LoadedModel]
    pulls: Mapping[str, PullStatus]
    memory: Memory
    version: str
    context_length: int  # that it was started with; 0: not known
    disk_free: int  # 0: not known
    is_mirror: bool  # it lets the others fetch its models
    is_server: bool  # its machine is the daemon's


@dataclass(frozen=True)
class Source:
    """All that is known of a node before it is made safe."""

    entry: NodeEntry
    heard: bool
    facts: NodeFacts
    status: OllamaStatus | None  # None: its agent knows nothing of models
    is_server: bool = False


def observe(source: Source, setting: Setting) -> Observed:
    """Return what the node's status tells."""
    status = source.status or OllamaStatus()
    away, has_ollama = _away(source), status.state not in (SERVICE_STATE_UNSPECIFIED, SERVICE_STATE_ABSENT)
    unable = away or _without_gate(status)
    loaded = dict(_named(status.loaded[:_LOADED_LIMIT]))
    memory = memory_of(source.facts, loaded.values())
    return Observed(
        node_id=source.entry.node_id,
        heard=source.heard,
        silent=source.entry.link is Link.SILENT,
        has_ollama=has_ollama,
        tells_models=status.state == SERVICE_STATE_READY,
        unable=unable,
        away=away,
        later=status.state == SERVICE_STATE_STARTING
        or (source.entry.link is not Link.UP and (has_ollama or not source.heard)),
        hint=printable(status.hint, _REASON_LIMIT),
        models=_models(source.entry.node_id, status, setting, memory, loaded, unable),
        loaded=loaded,
        pulls={name: _shown_pull(name, pull) for name, pull in _named(status.pulls[:_MODEL_LIMIT])},
        memory=memory,
        version=printable(status.version),
        context_length=min(status.applied.context_length, 1 << 30),
        disk_free=min(status.disk_free_bytes, _MOST_BYTES),
        is_mirror=status.mirror,
        is_server=source.is_server,
    )


def _models(
    node_id: str, status: OllamaStatus, setting: Setting, memory: Memory, loaded: Mapping[str, LoadedModel], unable: str
) -> dict[str, Held]:
    models: dict[str, Held] = {}
    for name, model in _named(status.models[:_MODEL_LIMIT]):
        if len(model.digest) == _DIGEST_BYTES and model.size_bytes <= _MOST_BYTES and name not in models:
            info = _cleaned(name, model)
            models[name] = _held(node_id, info, loaded.get(name), judged(info, setting, memory), unable)
    return models


def judged(info: OllamaModel, setting: Setting, memory: Memory) -> tuple[Fit, str]:
    """Return how the model fits into a node's memory, and the sentence."""
    need = memory_needed(
        info.size_bytes, info.shape, setting, family=info.family, capabilities=info.capabilities
    )
    judgement = judge_fit(need, memory)
    return judgement.fit, judgement.reason


def memory_of(facts: NodeFacts, loaded: Iterable[LoadedModel], sample: Sample | None = None) -> Memory:
    """Return a node's memory, as its loaded models leave it; with a sample, as everything on it leaves it."""
    entries = tuple(loaded)
    gpu_loaded = sum(min(entry.vram_bytes, _MOST_BYTES) for entry in entries)
    main_loaded = sum(min(max(entry.size_bytes - entry.vram_bytes, 0), _MOST_BYTES) for entry in entries)
    gpu_total = sum(min(gpu.memory_total_bytes, _MOST_BYTES) for gpu in facts.gpus[:_GPU_LIMIT])
    main_total = int(min(facts.memory_total_bytes, _MOST_BYTES) * MAIN_SHARE)
    gpu_loaded, main_loaded = min(gpu_loaded, gpu_total), min(main_loaded, main_total)
    gpu_free, main_free = gpu_total - gpu_loaded, main_total - main_loaded
    if sample is not None and sample.gpus:
        used = sum(min(gpu.memory_used_bytes, _MOST_BYTES) for gpu in sample.gpus[:_GPU_LIMIT])
        gpu_free = min(gpu_free, max(gpu_total - used, 0))
    if sample is not None and sample.memory_available_bytes:
        main_free = min(main_free, sample.memory_available_bytes)
    return Memory(gpu_total, gpu_free, gpu_loaded, main_free, main_loaded)


def model_name(text: str) -> str | None:
    """Return a model's normalised name; None when it is none, or only a name under which a copy is being fetched."""
    try:
        name = ModelName.parse(text)
    except BadModelName:
        return None
    return None if name.host.startswith(_LOOPBACK) else str(name)


def _named(entries: Iterable[N]) -> Iterator[tuple[str, N]]:
    for entry in entries:
        name = model_name(entry.model)
        if name is not None:
            yield name, entry


def _shown_pull(name: str, pull: PullStatus) -> PullStatus:
    shown = PullStatus()
    shown.CopyFrom(pull)
    shown.reason, shown.hint = printable(pull.reason, _REASON_LIMIT), printable(pull.hint, _REASON_LIMIT)
    shown.model = name
    return shown


def _cleaned(name: str, model: OllamaModel) -> OllamaModel:
    info = OllamaModel(
        model=name, digest=model.digest, size_bytes=model.size_bytes, family=printable(model.family),
        parameter_size=printable(model.parameter_size), quantization=printable(model.quantization),
        capabilities=[printable(item) for item in model.capabilities[:_CAPABILITY_LIMIT]], shape=model.shape,
    )
    if math.isfinite(model.modified_unix_seconds):
        info.modified_unix_seconds = max(model.modified_unix_seconds, 0.0)
    return info


def _held(
    node_id: str, info: OllamaModel, loaded: LoadedModel | None, fit: tuple[Fit, str], unable: str
) -> Held:
    is_loaded = loaded is not None and loaded.digest in (b"", info.digest)
    kind, sentence = (_loaded_fit(loaded), "") if loaded is not None and is_loaded else fit
    reason = unable or ("" if kind != FIT_NONE else f"it does not fit: {sentence}")
    vram = min(loaded.vram_bytes, _MOST_BYTES) if loaded is not None and is_loaded else 0
    good = Copy(node_id, True, is_loaded, not reason, FIT_UNABLE if unable else kind, reason, vram)
    drifted = Copy(node_id, False, False, False, FIT_UNABLE, "its copy has another digest than the cluster's")
    return Held(info.digest, info, good, drifted)


def _loaded_fit(loaded: LoadedModel) -> Fit:
    """What is loaded fits: on the GPUs when all of it is there."""
    return FIT_GPU if loaded.vram_bytes and loaded.vram_bytes >= loaded.size_bytes else FIT_MAIN_MEMORY


def _away(source: Source) -> str:
    """Return why nothing can be placed on the node now; empty when it can."""
    entry, status = source.entry, source.status
    if entry.link is not Link.UP:
        return f"{entry.node_id} is {entry.state.value}: {printable(entry.link_reason, _REASON_LIMIT)}"
    if entry.desired is not Desired.ACTIVE:
        return f"{entry.node_id} is {entry.desired.value}"
    if entry.rest is not Rest.NONE:
        return f"{entry.node_id} is resting: {entry.rest_reason}"
    if status is None:
        return "no Ollama there: its agent reports none"
    told = printable(status.reason, _REASON_LIMIT)
    if status.state in (SERVICE_STATE_ABSENT, SERVICE_STATE_UNSPECIFIED):
        return f"no Ollama there: {told}" if told else "no Ollama there"
    return "" if status.state == SERVICE_STATE_READY else _not_ready("Ollama", status.state, told)


def _without_gate(status: OllamaStatus) -> str:
    """Return why no request can reach the node's Ollama; empty when one can."""
    gate = status.gate
    if gate.state == SERVICE_STATE_READY:
        return ""
    return _not_ready("the gate", gate.state, printable(gate.reason, _REASON_LIMIT))


def _not_ready(what: str, state: ServiceState, told: str) -> str:
    known = ServiceState.Name(state) if state in ServiceState.values() else "SERVICE_STATE_UNKNOWN"
    word = known.removeprefix("SERVICE_STATE_").lower()
    return f"{what} is {word}" + (f": {told}" if told else "")
