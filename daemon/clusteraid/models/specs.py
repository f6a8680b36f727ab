"""What each node's Ollama shall have, and from where it fetches: pure.

With an Ollama on the server, that one fetches first, from the public registry; the others wait and then fetch its copy
through the mirror. Without one, or where it cannot, each fetches from the registry.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from clusterai.models import GATEWAY_NAME, MIRROR_NAME
from clusterai.v1.types_pb2 import (
    PULL_STATE_FAILED,
    PULL_STATE_PULLING,
    PULL_STATE_VERIFYING,
    ModelSpec,
    OllamaSettings,
    OllamaSpec,
    PullStatus,
)
from clusteraid.config import GatewayConfig, ModelsConfig
from clusteraid.models.inventory import Desires, Wanted
from clusteraid.models.observe import Observed
from clusteraid.models.placement import DISK_SHARE

_GOING = (PULL_STATE_PULLING, PULL_STATE_VERIFYING)


class Origin(Enum):
    """From where nodes other than the server fetch a model."""

    REGISTRY = "registry"
    SERVER = "server"
    WAIT = "wait"


@dataclass(frozen=True)
class Supply:
    """Who fetches first, and from where the others fetch each model."""

    server: str | None  # the node that runs on the server's own machine
    origins: Mapping[str, Origin]


def server_of(nodes: Iterable[Observed]) -> Observed | None:
    """Return the server's own node; of several agents on that machine the one that has an Ollama, then by name."""
    own = [node for node in nodes if node.is_server and (node.has_ollama or not node.heard)]
    return min(own, key=lambda node: (not node.has_ollama, node.node_id), default=None)


def supply(
    desires: Desires, nodes: Iterable[Observed], refused: Mapping[str, object], size_of: Callable[[str], int]
) -> Supply:
    """Return who supplies what. Of the nodes those on the server's machine count; sizes in bytes, 0: not known.

    `refused`: models that the server has failed to fetch.
    """
    server = server_of(nodes)
    origins = {
        name: _origin(wanted, server, size_of(name), refused=name in refused)
        for name, wanted in desires.items()
        if wanted.present
    }
    return Supply(server.node_id if server is not None else None, origins)


def _origin(wanted: Wanted, server: Observed | None, size: int, *, refused: bool) -> Origin:
    of_public_registry = wanted.name.count("/") < 2  # the mirror serves no others
    if server is None or server.node_id in wanted.absent or not of_public_registry:
        return Origin.REGISTRY
    if not server.heard and not server.silent:  # the daemon has just started: what it said before still counts
        return Origin.SERVER if wanted.digest else Origin.WAIT
    if not server.is_mirror:
        return Origin.REGISTRY
    held = server.models.get(wanted.name)
    if held is not None:
        return Origin.SERVER if wanted.digest in (b"", held.digest) else Origin.REGISTRY
    pull = server.pulls.get(wanted.name)
    failed = pull is not None and pull.state == PULL_STATE_FAILED
    full = 0 < server.disk_free < size * DISK_SHARE
    return Origin.REGISTRY if refused or failed or full or server.silent else Origin.WAIT


class SpecMaker:
    """Makes the part of a node's spec that is about models."""

    def __init__(self, models: ModelsConfig, gateway: GatewayConfig) -> None:
        self._frame = OllamaSpec(
            settings=OllamaSettings(
                context_length=models.context_length, parallel_count=models.parallel, keep_alive=models.keep_alive
            ),
            gate_port=gateway.gate_port, gateway_name=GATEWAY_NAME,
            mirror_address=f":{gateway.mirror_port}", mirror_name=MIRROR_NAME,
        )

    @property
    def settings(self) -> OllamaSettings:
        """What every Ollama of the cluster is started with."""
        return self._frame.settings

    def make(self, node: Observed, desires: Desires, supplied: Supply) -> OllamaSpec:
        """Return what the node's Ollama shall have."""
        spec = OllamaSpec()
        spec.CopyFrom(self._frame)
        for name in sorted(desires):
            model = _model_spec(node, desires[name], supplied)
            if model is not None:
                spec.models.append(model)
        return spec


def _model_spec(node: Observed, wanted: Wanted, supplied: Supply) -> ModelSpec | None:
    """Return what the node shall do about the model; None: leave it alone."""
    node_id = node.node_id
    if node_id in wanted.absent:
        return ModelSpec(model=wanted.name, absent=True)
    origin, is_server = supplied.origins.get(wanted.name), node_id == supplied.server
    fetches_first = is_server and origin is Origin.WAIT  # for the others
    if node_id not in wanted.present and not fetches_first:
        return None
    if is_server or origin is Origin.REGISTRY or _is_at_it(node.pulls.get(wanted.name)):
        # The registry gives its newest; which one was fixed matters only where there is another one already.
        return ModelSpec(model=wanted.name, digest=wanted.digest if wanted.name in node.models else b"")
    return ModelSpec(
        model=wanted.name, digest=wanted.digest, from_mirror=origin is Origin.SERVER, waits=origin is Origin.WAIT
    )


def _is_at_it(pull: PullStatus | None) -> bool:
    """Whether it is being fetched from the registry now: told to do it otherwise, the node would begin anew."""
    return pull is not None and pull.state in _GOING and getattr(pull, "from") == "registry"
