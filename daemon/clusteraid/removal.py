"""Removing a node: its certificates are refused, its session and workers end, and it is forgotten."""

from clusterai.ids import IdentityKind
from clusteraid.authority import Authority
from clusteraid.drain import Drains
from clusteraid.nodes import Node, Nodes
from clusteraid.revocation import Revocations
from clusteraid.store_nodes import NodeStore
from clusteraid.uninterrupted import uninterrupted


class Removal:
    """Takes nodes out of the cluster for good."""

    def __init__(
        self, nodes: Nodes, store: NodeStore, drains: Drains, authority: Authority, revocations: Revocations
    ) -> None:
        self._nodes, self._store, self._drains = nodes, store, drains
        self._authority, self._revocations = authority, revocations

    async def remove(self, node: Node) -> None:
        """Remove the node; on disk it is gone, and refused, before this returns."""
        await uninterrupted(self._remove(node))

    async def _remove(self, node: Node) -> None:
        async with self._revocations.changing:
            await self._store.remove_node(node.node_id)
            self._drains.cancel(node)
            self._nodes.remove(node)
            await self._revocations.revoked_elsewhere(self._authority.identity(IdentityKind.NODE, node.node_id))
