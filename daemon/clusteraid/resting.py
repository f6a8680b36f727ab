"""Nodes whose own policy lets them rest: their work leaves first, within a deadline, then their workers are stopped."""

import asyncio
import logging
from collections.abc import Callable

from clusterai.ids import NodeId
from clusteraid.emptying import DrainRefused, Emptying, NowhereToMove, Progress
from clusteraid.nodes import Node, Nodes
from clusteraid.ports import EventLog
from clusteraid.registry import Desired, DrainDone, Rest

log = logging.getLogger(__name__)
_AGAIN_SECONDS = 1.0


class Rests:
    """One task for each node that goes to rest. A drain that an operator asked for comes first.

    `deadline_of` returns how many seconds a node's work has to leave.
    """

    def __init__(
        self, nodes: Nodes, emptying: Emptying, events: EventLog, tasks: asyncio.TaskGroup,
        deadline_of: Callable[[Node], float],
    ) -> None:
        self._nodes, self._emptying, self._events, self._tasks = nodes, emptying, events, tasks
        self._deadline_of = deadline_of
        self._going: dict[NodeId, asyncio.Task[None]] = {}
        nodes.on_changed(self._node_changed)
        for node in nodes:
            self._node_changed(node)

    def _node_changed(self, node: Node) -> None:
        """Begin to empty the node, or leave it alone."""
        entry, going = node.entry, self._going.get(node.node_id)
        wanted = self._nodes.has(node) and entry.rest is Rest.DRAINING and entry.desired is Desired.ACTIVE
        if wanted and going is None:
            task = self._tasks.create_task(self._run(node), name=f"rest {node.node_id}")
            self._going[node.node_id] = task
        elif not wanted and going is not None:
            del self._going[node.node_id]
            going.cancel()

    async def _run(self, node: Node) -> None:
        """Empty the node, however often that fails; at its deadline it rests all the same."""
        seconds, progress = self._deadline_of(node), _Latest()
        try:
            async with asyncio.timeout(seconds):
                await self._emptied(node, progress)
        except TimeoutError:
            message = (
                f"{node.node_id} rests, although its work had not left within {seconds:.0f} s"
                f" ({progress.message}): what is lost is computed again elsewhere"
            )
            self._events.note("node-rest-forced", node.node_id, message)
        del self._going[node.node_id]
        self._nodes.apply(node, DrainDone())

    async def _emptied(self, node: Node, progress: "_Latest") -> None:
        while True:
            try:
                await self._emptying.empty(node, progress.report)
            except (NowhereToMove, DrainRefused) as error:
                log.info("%s rests, and its work cannot leave yet: %s", node.node_id, error)
                progress.message = str(error)
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                return


class _Latest:
    """How far a node is on its way to rest."""

    def __init__(self) -> None:
        self.message = "waiting for the pool"

    def report(self, progress: Progress) -> None:
        self.message = progress.message
