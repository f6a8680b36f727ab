"""The gateway's part of the daemon, put together: what it is given, and who may ask for it."""

import logging
import socket
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from clusterai.remote import join_address
from clusterai.units import Units
from clusteraid.addresses import Reach
from clusteraid.authority import Authority
from clusteraid.config import DaemonConfig
from clusteraid.findings import Check
from clusteraid.gateway.certificates import WEB, CertificateParts, GatewayCertificates, web_names
from clusteraid.gateway.checks import GatewayChecked, GatewayChecks
from clusteraid.gateway.data import DataFile, KeptFile, Table
from clusteraid.gateway.keys import Keys
from clusteraid.gateway.routes import Peer, RouteSettings, peer_of, routes
from clusteraid.gateway.status import GatewayStatus
from clusteraid.models.ports import Inventory
from clusteraid.nodes import Node, Nodes
from clusteraid.ports import EventLog
from clusteraid.revocation import Revocations
from clusteraid.status import Problems
from clusteraid.store import Store
from clusteraid.store_keys import KeyStore

log = logging.getLogger(__name__)
NAME = "routes.json"
_TAKEN_SECONDS = 0.3  # the gateway's processes look at the keys every 0.2 s


@dataclass(frozen=True)
class GatewayParts:
    """What the gateway's part is made of."""

    config: DaemonConfig
    store: Store
    events: EventLog
    authority: Authority
    units: Units
    nodes: Nodes
    inventory: Inventory
    revocations: Revocations
    reach: Reach
    problems: Problems
    is_own: Callable[[Node], bool]  # the server's own node
    copy_limit: Callable[[], int]  # bytes per second for each node that fetches models from here; 0: none


class Gateway:
    """Writes what the gateway reads. Where none is installed its directory is missing, and nothing is written."""

    def __init__(self, parts: GatewayParts) -> None:
        self._parts, config = parts, parts.config.gateway
        self._known: dict[Node, Peer] = {}  # thousands may come back at once: only who changed is looked at
        self.status = GatewayStatus(config.status_port)
        taken = _TAKEN_SECONDS if config.directory.is_dir() else 0.0
        self.keys = Keys(KeyStore(parts.store), parts.events, config.directory, parts.problems, time.time, taken)
        self.routes = KeptFile(DataFile(config.directory / NAME), self._table, parts.problems)
        self.certificates = GatewayCertificates(
            CertificateParts(config, parts.authority, self._names, parts.units, parts.problems)
        )

    async def load(self) -> None:
        """Read the keys, and listen to everything that changes the table."""
        await self.keys.load()
        self._parts.inventory.on_changed(self.routes.changed)
        self._parts.nodes.on_changed(self._node_changed)
        self._parts.nodes.on_reported(self._node_changed)
        self._parts.revocations.on_revoked(self.routes.changed)

    def work(self) -> dict[str, Coroutine[Any, Any, None]]:
        """Return the background work by name."""
        return {
            "gateway routes": self.routes.keep(),
            "gateway keys": self.keys.file.keep(self.keys.until_due),
            "gateway certificates": self.certificates.keep_fresh(),
        }

    @property
    def installed(self) -> bool:
        """Whether this machine has a gateway."""
        return self.routes.file.installed

    def freeze(self) -> None:
        """The daemon stops: its sessions end, the nodes go on to serve, and the table stays as it is."""
        self.routes.freeze()

    def urls(self) -> tuple[str, ...]:
        """Return where clients reach the gateway, the likeliest first; nothing where there is none."""
        if not self.installed:
            return ()
        config, hosts = self._parts.config.gateway, self._parts.reach.hosts
        own = f"{socket.gethostname().partition('.')[0].lower()}.local"
        names = dict.fromkeys((*config.names, *hosts, own))
        return tuple(f"https://{join_address(name, config.port)}" for name in names)

    def checks(self) -> dict[str, Check]:
        """Return what `clusteractl doctor` asks of it."""
        parts, config = self._parts, self._parts.config.gateway
        return GatewayChecks(
            GatewayChecked(
                parts.units, self.status, (self.routes.file, self.keys.file.file), config.directory / WEB,
                config.https_port, self.keys.__len__, parts.inventory, self._peers,
            )
        ).all()

    def _table(self) -> Table:
        peers = self._peers()
        return routes(self._parts.inventory.models(), peers, self._settings(peers), self.routes.file.content)

    def _names(self) -> tuple[str, ...]:
        parts = self._parts
        return web_names(parts.reach.hosts, socket.gethostname(), parts.config.gateway.names)

    def _node_changed(self, node: Node) -> None:
        self._known.pop(node, None)
        self.routes.changed()

    def _peers(self) -> list[Peer]:
        return [self._known.get(node) or self._peer(node) for node in self._parts.nodes]

    def _peer(self, node: Node) -> Peer:
        config = self._parts.config
        peer = self._known[node] = peer_of(
            node, own=self._parts.is_own(node), gate_port=config.gateway.gate_port, parallel=config.models.parallel
        )
        return peer

    def _settings(self, peers: Iterable[Peer]) -> RouteSettings:
        root = next((peer.ollama.models_directory for peer in peers if peer.own and peer.ollama.mirror), "")
        return RouteSettings(
            self._parts.config.gateway.loopback_without_key, self._parts.copy_limit(), root,
            self._parts.revocations.serials,
        )
