"""Models and nodes with Ollama, as the daemon's gateway part is told of them."""

from collections.abc import Callable
from hashlib import sha256
from typing import Any

from clusterai.v1.model_pb2 import FIT_GPU
from clusterai.v1.types_pb2 import (
    SERVICE_STATE_READY,
    GateStatus,
    OllamaModel,
    OllamaSettings,
    OllamaStatus,
)
from clusteraid.models.ports import ClusterModel, Copy


class FixedInventory:
    """An inventory that a test fills."""

    def __init__(self, *models: ClusterModel) -> None:
        self._models, self._listeners = models, list[Callable[[], None]]()

    def models(self) -> tuple[ClusterModel, ...]:
        return self._models

    def on_changed(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    def set(self, *models: ClusterModel) -> None:
        """Have these from now on, and tell who listens."""
        self._models = models
        for listener in self._listeners:
            listener()


def digest(name: str) -> bytes:
    """A digest for the model."""
    return sha256(name.encode()).digest()


def info(name: str, **others: Any) -> OllamaModel:
    """What a node tells of a model."""
    values = {"size_bytes": 2 << 30, "family": "llama", "parameter_size": "3.2B", "quantization": "Q4_K_M"}
    return OllamaModel(model=name, digest=digest(name), capabilities=["completion"], **{**values, **others})


def copy(node_id: str, **others: Any) -> Copy:
    """A usable copy."""
    values = {"present": True, "loaded": False, "usable": True, "fit": FIT_GPU}
    return Copy(node_id, **{**values, **others})


def model(name: str, *copies: Copy, **others: Any) -> ClusterModel:
    """A model with these copies."""
    values = {"digest": digest(name), "info": info(name), "managed": True}
    return ClusterModel(name=name, copies=copies, **{**values, **others})


def ready_ollama(port: int = 11443, **others: Any) -> OllamaStatus:
    """The status of an Ollama behind a gate, both ready."""
    gate = GateStatus(state=SERVICE_STATE_READY, port=port)
    values = {"version": "0.31.1", "applied": OllamaSettings(parallel_count=2), "gate": gate}
    return OllamaStatus(**{"state": SERVICE_STATE_READY, **values, **others})
