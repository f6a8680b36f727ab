"""What the rest of the daemon knows of models: values, and who gives them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from clusterai.v1.model_pb2 import Fit
from clusterai.v1.types_pb2 import OllamaModel


@dataclass(frozen=True)
class Copy:
    """A model on a node. `usable`: the gateway may send requests there now; else `reason` says why not."""

    node_id: str
    present: bool  # with the cluster's digest
    loaded: bool
    usable: bool
    fit: Fit
    reason: str = ""
    vram_bytes: int = 0


@dataclass(frozen=True)
class ClusterModel:
    """A model as the cluster knows it. `digest` is the one that counts: other copies of that name are drift."""

    name: str  # normalised
    digest: bytes
    info: OllamaModel  # as a node with that digest tells it; without one, only the name
    copies: tuple[Copy, ...]
    managed: bool  # desired state names it

    @property
    def served(self) -> bool:
        """Whether some node can answer for it now."""
        return any(copy.usable for copy in self.copies)


class Inventory(Protocol):
    """All models of the cluster, as of now."""

    def models(self) -> tuple[ClusterModel, ...]:
        """Return them by name."""

    def on_changed(self, listener: Callable[[], None]) -> None:
        """Call the listener after each change of what `models` returns."""


@dataclass(frozen=True)
class PeerLoad:
    """What the gateway knows of a node: requests in flight, and whether it is left alone because it did not answer."""

    in_flight: int = 0
    failing: bool = False


class GatewayStatus(Protocol):
    """The gateway's own view of the nodes."""

    async def fetch(self) -> Mapping[str, PeerLoad] | None:
        """Return the load of each node that had requests; None when the gateway does not answer. Never raises."""
