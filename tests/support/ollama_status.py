"""What a node's agent says of its Ollama, in few words; and nodes as the models domain sees them."""

import hashlib
from collections.abc import Iterable
from typing import Any

from clusterai.ids import NodeId
from clusterai.v1.types_pb2 import (
    SERVICE_STATE_READY,
    GateStatus,
    GpuFacts,
    LoadedModel,
    ModelShape,
    NodeFacts,
    OllamaModel,
    OllamaSettings,
    OllamaStatus,
    PullStatus,
)
from clusteraid.models.fit import Setting
from clusteraid.models.inventory import Desires, Holdings
from clusteraid.models.observe import Observed, Source, observe
from clusteraid.models.ports import ClusterModel
from clusteraid.registry import Desired, Link, NodeEntry, Rest

GB = 10**9
SETTING = Setting(context_length=8192, parallel=2)
LLAMA_3B = ModelShape(layer_count=28, kv_head_count=8, key_length=128, value_length=128, context_length=131072)


def digest(content: str) -> bytes:
    """Return a manifest's digest for what a model stands for in a test."""
    return hashlib.sha256(content.encode()).digest()


def model(name: str = "llama3.2:3b", content: str = "one", size: int = 2 * GB, **others: Any) -> OllamaModel:
    """A model on a disk, 2 GB by default."""
    return OllamaModel(
        **{"model": name, "digest": digest(content), "size_bytes": size, "family": "llama", "shape": LLAMA_3B, **others}
    )


def loaded(name: str = "llama3.2:3b", content: str = "one", size: int = 4 * GB, vram: int = 4 * GB) -> LoadedModel:
    """A model in memory, all of it on the GPU by default."""
    return LoadedModel(model=name, digest=digest(content), size_bytes=size, vram_bytes=vram, context_length=8192)


def ollama(*models: OllamaModel, **others: Any) -> OllamaStatus:
    """A ready Ollama behind a ready gate."""
    values: dict[str, Any] = {
        "state": SERVICE_STATE_READY, "version": "0.31.1", "disk_free_bytes": 500 * GB,
        "gate": GateStatus(state=SERVICE_STATE_READY, port=11443),
        "applied": OllamaSettings(context_length=8192, parallel_count=2, keep_alive="5m"),
    }
    return OllamaStatus(models=models, **{**values, **others})


def pull(name: str = "llama3.2:3b", origin: str = "", **others: Any) -> PullStatus:
    """A pull from "server" or "registry"."""
    values: dict[str, Any] = {"model": name, "from": origin, **others}
    return PullStatus(**values)


def machine(gpu: int = 0, memory: int = 16 * GB, gpus: int = 1) -> NodeFacts:
    """A machine with so many bytes on each of its GPUs."""
    cards = [GpuFacts(index=index, memory_total_bytes=gpu) for index in range(gpus)] if gpu else []
    return NodeFacts(memory_total_bytes=memory, gpus=cards)


def node(
    name: str, status: OllamaStatus | None = None, *, facts: NodeFacts | None = None, link: Link = Link.UP,
    desired: Desired = Desired.ACTIVE, is_server: bool = False, heard: bool = True,
    rest: Rest = Rest.NONE,
) -> Observed:
    """A node with 24 GB on its GPU, as the models domain sees it."""
    broken = "" if link is Link.UP else "its session broke off"
    entry = NodeEntry(NodeId(name), desired, link, link_reason=broken, rest=rest, rest_reason="on battery")
    return observe(Source(entry, heard, facts or machine(24 * GB), status, is_server), SETTING)


def cluster_models(nodes: Iterable[Observed], desires: Desires) -> tuple[ClusterModel, ...]:
    """Return all models by name, each with its copies by node."""
    holdings = Holdings()
    for node in nodes:
        holdings.put(node)
    found = (holdings.model(name, desires.get(name)) for name in sorted({*holdings.names, *desires}))
    return tuple(model for model in found if model is not None)
