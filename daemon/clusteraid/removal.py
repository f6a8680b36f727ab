"""Removing a node: its certificates are refused, its session and workers end, and it is forgotten."""

import asyncio
import logging

from clusterai.ids import IdentityKind
from clusteraid.authority import Authority
from clusteraid.dask_control import SchedulerAway, SchedulerRefused
from clusteraid.drain import Drains
from clusteraid.nodes import Node, Nodes
from clusteraid.planner import owner_of
from clusteraid.pool_port import PoolPort
from clusteraid.pools import Pools
from clusteraid.revocation import Revocations
from clusteraid.store_nodes import NodeStore
from clusteraid.uninterrupted import uninterrupted

log = logging.getLogger(__name__)
_CLOSE_SECONDS = 5.0  # the operator waits


class Removal:
    """Takes nodes out of the cluster for good."""

    def __init__(
        self, nodes: Nodes, store: NodeStore, drains: Drains, pools: Pools, authority: Authority,
        revocations: Revocations,
    ) -> None:
        self._nodes, self._store, self._drains, self._pools = nodes, store, drains, pools
        self._authority, self._revocations = authority, revocations

    async def remove(self, node: Node) -> None:
        """Remove the node; on disk it is gone, and refused, before this returns."""
        await uninterrupted(self._remove(node))
        await asyncio.gather(*(_close_workers(node, pool) for pool in self._pools))

    async def _remove(self, node: Node) -> None:
        async with self._revocations.changing:
            await self._store.remove_node(node.node_id)
            self._drains.cancel(node)
            self._nodes.remove(node)
            await self._revocations.revoked_elsewhere(self._authority.identity(IdentityKind.NODE, node.node_id))


async def _close_workers(node: Node, pool: PoolPort) -> None:
    """Have the scheduler give its tasks to others: its agent may be away, or not obey."""
    names = [name for name in pool.workers if owner_of(name) == node.node_id]
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            if names:
                await pool.close(names)
    except (SchedulerAway, SchedulerRefused, TimeoutError) as error:
        reason = str(error) or f"no answer within {_CLOSE_SECONDS:.0f} s"
        log.warning("workers of %s stay until they end by themselves: %s", node.node_id, reason)
