"""Which workers get no new tasks: those of nodes that may not work now. Told to the pools soon after each change."""

import asyncio
from collections.abc import Iterable

from clusteraid.nodes import Node, Nodes
from clusteraid.planner import owner_of
from clusteraid.pools import Pools

_SOON_SECONDS, _PAUSE_SECONDS = 0.05, 0.25  # many changes at once are told as one


class Holds:
    """Keeps each pool's held workers in step with the states of its nodes."""

    def __init__(self, nodes: Nodes, pools: Pools) -> None:
        self._nodes, self._pools = nodes, pools
        self._told: dict[str, frozenset[str]] = {}  # a scheduler may still hold some for an earlier daemon
        self._timer: asyncio.TimerHandle | None = None
        self._told_at = 0.0
        nodes.on_changed(self._node_changed)
        for pool in pools:
            pool.on_changed(self._soon)

    def close(self) -> None:
        """Tell nothing any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _node_changed(self, _: Node) -> None:
        self._soon()

    def _soon(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            due = max(loop.time() + _SOON_SECONDS, self._told_at + _PAUSE_SECONDS)
            self._timer = loop.call_at(due, self._tell)

    def _tell(self) -> None:
        self._timer, self._told_at = None, asyncio.get_running_loop().time()
        for pool in self._pools:
            members = (node for node in self._nodes if self._pools.of(node.is_phone) is pool)
            names = held_workers(members, pool.workers)
            if names != self._told.get(pool.plan.name):
                self._told[pool.plan.name] = names
                pool.hold(names)


def held_workers(nodes: Iterable[Node], registered: Iterable[str]) -> frozenset[str]:
    """Return the names of workers of a pool that may get no new tasks; `nodes` are those that belong to it.

    A registered one of no such node is among them. A node speaks for its own workers only, whatever names it reports.
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
