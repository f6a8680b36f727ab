"""Taking everything off a node's workers, so that nothing computed is lost."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from clusterai.errors import ClusterAIError, Status
from clusteraid.dask_control import SchedulerAway, SchedulerRefused
from clusteraid.nodes import Node, Nodes
from clusteraid.planner import owner_of
from clusteraid.pool_port import PoolPort
from clusteraid.pools import Pools

log = logging.getLogger(__name__)
_RETRY_SECONDS = 0.5
_RETIRE_AGAIN_SECONDS = 5.0


class NowhereToMove(ClusterAIError):
    code, status = "nowhere-to-move", Status.FAILED
    message = "{node_id} holds results or running tasks, and no other worker could take them; it stays in the pool"
    hint = "bring another node up (`clusteractl node list`), or let the computation finish, then drain again"


class DrainRefused(ClusterAIError):
    code, status = "drain-refused", Status.FAILED
    message = "{node_id} cannot be drained and stays in the pool: {why}"
    hint = "bring another node up (`clusteractl node list`), or let the computation finish, then drain again"


@dataclass(frozen=True)
class Progress:
    """How far a drain is."""

    running: int = 0
    moved: int = 0
    total: int = 0
    message: str = ""


class Emptying:
    """Empties nodes through the scheduler of their pool."""

    def __init__(self, nodes: Nodes, pools: Pools) -> None:
        self._nodes, self._pools = nodes, pools

    async def empty(self, node: Node, report: Callable[[Progress], None]) -> None:
        """Move everything away from the node's workers until the scheduler knows none of them any more.

        Raises:
            NowhereToMove: they hold something, and no other worker could take it.
            DrainRefused: the scheduler could not do it.
        """
        pool = self._pools.of(node.is_phone)
        if pool is None:
            return
        await pool.settled()
        while names := _workers_of(node, pool):
            self._check_room(node, pool)
            try:
                await pool.retire(names, _reporter(report))
            except SchedulerRefused as error:
                raise DrainRefused(node_id=node.node_id, why=error) from error
            except SchedulerAway as error:
                report(Progress(message=str(error)))
                log.warning("draining %s: %s; it is tried again", node.node_id, error)
                await asyncio.sleep(_RETIRE_AGAIN_SECONDS)
            await asyncio.sleep(_RETRY_SECONDS)

    def _check_room(self, node: Node, pool: PoolPort) -> None:
        """Raise NowhereToMove when what the node's workers hold could go nowhere."""
        workers = pool.workers
        mine = set(_workers_of(node, pool))
        members = (other for other in self._nodes if self._pools.of(other.is_phone) is pool)
        working = {other.node_id for other in members if other.entry.is_counted_on}
        room = any(owner_of(name) in working for name in workers if name not in mine)
        if not room and any(workers[name].processing or workers[name].nbytes for name in mine):
            raise NowhereToMove(node_id=node.node_id)


def _workers_of(node: Node, pool: PoolPort) -> list[str]:
    return [name for name in pool.workers if owner_of(name) == node.node_id]


def _reporter(report: Callable[[Progress], None]) -> Callable[[int, int, int], None]:
    def told(running: int, moved: int, total: int) -> None:
        report(Progress(running, moved, total, f"{running} tasks running, {moved} of {total} results moved"))

    return told
