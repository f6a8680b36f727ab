"""Taking nodes out of the pool without losing what they computed. A drain outlives its caller and the daemon."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from clusterai.errors import ClusterAIError, Status
from clusterai.ids import NodeId
from clusteraid.emptying import DrainRefused, Emptying, NowhereToMove, Progress
from clusteraid.nodes import Node, Nodes
from clusteraid.pools import Pools
from clusteraid.ports import EventLog
from clusteraid.registry import Desired, DrainAsked, DrainDone, DrainEnded
from clusteraid.store import StoreUnavailable
from clusteraid.store_nodes import NodeStore

log = logging.getLogger(__name__)
_WRITE_AGAIN_SECONDS = 5.0


class DrainTimedOut(ClusterAIError):
    code, status = "drain-timed-out", Status.TIMED_OUT
    message = "{node_id} was not drained by its deadline ({what}); it stays in the pool"
    hint = "drain it again with a longer deadline (`clusteractl node drain {node_id} --deadline SECONDS`)"


class DrainCancelled(ClusterAIError):
    code, status = "drain-cancelled", Status.FAILED
    message = "the drain of {node_id} was ended by `clusteractl node undrain` or by its removal"
    hint = "see `clusteractl events` for who did it"


class NotDraining(ClusterAIError):
    code, status = "not-draining", Status.FAILED
    message = "{node_id} is neither draining nor drained"
    hint = "`clusteractl node list` shows the state of every node"


@dataclass(eq=False)
class Drain:
    """A drain that goes on, and its newest progress."""

    node: Node
    progress: Progress = field(default_factory=lambda: Progress(message="waiting for the pool"))
    outcome: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None

    def report(self, progress: Progress) -> None:
        """Take new progress; whoever watches sees it."""
        self.progress = progress
        self.changed.set()
        self.changed = asyncio.Event()


class Drains:
    """All drains: one for each node that is draining."""

    def __init__(
        self, nodes: Nodes, store: NodeStore, pools: Pools, events: EventLog, tasks: asyncio.TaskGroup
    ) -> None:
        self._nodes, self._store, self._events, self._tasks = nodes, store, events, tasks
        self._emptying = Emptying(nodes, pools)
        self._going: dict[NodeId, Drain] = {}

    def resume(self) -> None:
        """Go on with the drains that an earlier daemon began; once at start."""
        for node in self._nodes:
            if node.entry.desired is Desired.DRAINING:
                self._begin(node)

    async def start(self, node: Node, deadline_seconds: float) -> Drain | None:
        """Begin to drain, on disk first; None when the node is drained already."""
        if node.entry.desired is Desired.DRAINED:
            return None
        going = self._going.get(node.node_id)
        if going is not None:
            return going
        deadline = time.time() + deadline_seconds
        await self._store.set_desired(node.node_id, Desired.DRAINING.value, deadline)
        node.drain_deadline = deadline
        self._nodes.apply(node, DrainAsked())
        return self._going.get(node.node_id) or self._begin(node)

    async def watch(self, drain: Drain) -> AsyncIterator[Progress]:
        """Yield the drain's progress until it is done; raise what it failed with. Leaving does not stop the drain."""
        while not drain.outcome.done():
            changed = drain.changed
            yield drain.progress
            if not drain.outcome.done():
                await changed.wait()
        await asyncio.shield(drain.outcome)

    async def undrain(self, node: Node) -> None:
        """Take the node back into the pool; a drain that goes on ends.

        Raises:
            NotDraining: there is nothing to undo.
        """
        if node.entry.desired is Desired.ACTIVE:
            raise NotDraining(node_id=node.node_id)
        await self._store.set_desired(node.node_id, Desired.ACTIVE.value)
        self.cancel(node)
        self._nodes.apply(node, DrainEnded())
        self._events.note("node-undrained", node.node_id, f"{node.node_id} is back in the pool")

    def cancel(self, node: Node) -> None:
        """End the node's drain, if any."""
        drain = self._going.pop(node.node_id, None)
        if drain is not None and drain.task is not None:
            _settle(drain, DrainCancelled(node_id=node.node_id))
            drain.task.cancel()

    def _begin(self, node: Node) -> Drain:
        drain = self._going[node.node_id] = Drain(node)
        drain.task = self._tasks.create_task(self._run(drain), name=f"drain {node.node_id}")
        return drain

    async def _run(self, drain: Drain) -> None:
        node = drain.node
        try:
            async with asyncio.timeout(max(node.drain_deadline - time.time(), 0)):
                await self._emptying.empty(node, drain.report)
        except TimeoutError:
            what = drain.progress.message
            await self._failed(drain, DrainTimedOut(node_id=node.node_id, what=what))
        except (NowhereToMove, DrainRefused) as error:
            await self._failed(drain, error)
        else:
            await self._written(node, Desired.DRAINED)
            self._nodes.apply(node, DrainDone())
            self._going.pop(node.node_id, None)
            _settle(drain, None)

    async def _failed(self, drain: Drain, error: ClusterAIError) -> None:
        node = drain.node
        await self._written(node, Desired.ACTIVE)
        self._nodes.apply(node, DrainEnded())
        self._events.note("node-drain-failed", node.node_id, str(error))
        self._going.pop(node.node_id, None)
        _settle(drain, error)

    async def _written(self, node: Node, desired: Desired) -> None:
        """Put it on disk, however long that takes: until then the drain is not over."""
        while True:
            try:
                await self._store.set_desired(node.node_id, desired.value)
            except StoreUnavailable as error:
                log.warning("the drain of %s ends when the store can be written: %s", node.node_id, error)
                await asyncio.sleep(_WRITE_AGAIN_SECONDS)
            else:
                return


def _settle(drain: Drain, error: ClusterAIError | None) -> None:
    if drain.outcome.done():
        return
    if error is None:
        drain.outcome.set_result(None)
    else:
        drain.outcome.set_exception(error)
        drain.outcome.exception()  # nobody need watch: it is an event as well
    drain.report(drain.progress)
