"""Which workers get no new tasks: those of nodes that may not work now. Told to the pool soon after each change."""

import asyncio
from collections.abc import Iterable

from clusteraid.nodes import Node, Nodes
from clusteraid.planner import owner_of
from clusteraid.pool_port import PoolPort

_SOON_SECONDS = 0.05  # many changes at once are told as one


class Holds:
    """Keeps the pool's held workers in step with the nodes' states."""

    def __init__(self, nodes: Nodes, pool: PoolPort) -> None:
        self._nodes, self._pool = nodes, pool
        self._told: frozenset[str] | None = None  # the scheduler may still hold some for an earlier daemon
        self._timer: asyncio.TimerHandle | None = None
        nodes.on_changed(self._node_changed)
        pool.on_changed(self._soon)

    def close(self) -> None:
        """Tell nothing any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _node_changed(self, _: Node) -> None:
        self._soon()

    def _soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SOON_SECONDS, self._tell)

    def _tell(self) -> None:
        self._timer = None
        names = held_workers(self._nodes, self._pool.workers)
        if names != self._told:
            self._told = names
            self._pool.hold(names)


def held_workers(nodes: Iterable[Node], registered: Iterable[str]) -> frozenset[str]:
    """Return the names of workers that may get no new tasks; a registered one of an unknown node is among them.

    A node speaks for its own workers only, whatever names it reports.
    """
    working: set[str] = set()
    held: set[str] = set()
    for node in nodes:
        if node.entry.is_counted_on:
            working.add(node.node_id)
        else:
            named = {worker.worker_name for worker in node.spec.workers}
            named |= {worker.worker_name for worker in node.status.workers}
            held.update(name for name in named if owner_of(name) == node.node_id)
    held.update(name for name in registered if owner_of(name) not in working)
    return frozenset(held)
