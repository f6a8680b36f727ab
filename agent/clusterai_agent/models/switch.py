"""Models switched on or off: off, as on phones, nothing that watches them is loaded."""

from collections.abc import Callable
from typing import Protocol

from clusterai.units import Units
from clusterai.v1.node_pb2 import NodeSpec
from clusterai.v1.types_pb2 import OllamaStatus
from clusterai_agent.config import AgentConfig
from clusterai_agent.server import Server


class Models(Protocol):
    """What the agent asks of whoever keeps its models."""

    @property
    def status(self) -> OllamaStatus | None:
        """What was seen last; None when it is switched off."""

    def want(self, spec: NodeSpec) -> None:
        """Take the daemon's spec."""

    async def look(self) -> None:
        """Look once, so that the first message to the server tells what is here."""

    async def run(self) -> None:
        """Watch and reconcile until cancelled."""

    async def give_up(self) -> None:
        """Another machine or none is the node now."""


class NoModels:
    """Ollama is not looked at, and the server hears nothing of it."""

    status: OllamaStatus | None = None

    def want(self, spec: NodeSpec) -> None:
        """Leave it."""

    async def look(self) -> None:
        """See nothing."""

    async def run(self) -> None:
        """Have nothing to do."""

    async def give_up(self) -> None:
        """Have nothing to close."""


def open_models(config: AgentConfig, units: Units, server: Server, changed: Callable[[], None]) -> Models:
    """Return who keeps the models, as `enabled` under [ollama] says."""
    if not config.ollama.enabled:
        return NoModels()
    from clusterai_agent.models.keeper import ModelKeeper  # 1 MB that no phone needs

    return ModelKeeper(config, units, server, changed)
