"""NodeAdminService: nodes, for operators."""

import math
from collections.abc import AsyncIterator, Callable
from typing import Any

from clusterai.errors import BadRequest
from clusterai.v1 import node_admin_pb2 as pb
from clusterai.v1.node_admin_pb2_grpc import NodeAdminServiceServicer
from clusteraid.approvals import Approvals
from clusteraid.drain import Drains
from clusteraid.nodes import Nodes
from clusteraid.removal import Removal
from clusteraid.views import Views, pending

_LONGEST_DEADLINE_SECONDS = 30 * 86400.0


class NodeAdminServicer(NodeAdminServiceServicer):
    """`default_deadline` returns the seconds that a drain may take when the caller does not say."""

    def __init__(
        self,
        nodes: Nodes,
        views: Views,
        approvals: Approvals,
        drains: Drains,
        removal: Removal,
        default_deadline: Callable[[], float],
    ) -> None:
        self._nodes, self._views, self._approvals, self._drains = nodes, views, approvals, drains
        self._removal, self._default_deadline = removal, default_deadline

    async def ListNodes(self, request: pb.ListNodesRequest, context: Any) -> bytes:
        """Return a serialised ListNodesResponse."""
        basic = request.view == pb.NODE_VIEW_BASIC
        return self._views.nodes(self._approvals.waiting(), with_samples=request.with_samples, basic=basic)

    async def GetNode(self, request: pb.GetNodeRequest, context: Any) -> pb.GetNodeResponse:
        for entry in self._approvals.waiting():
            if entry.name == request.node_id:
                return pb.GetNodeResponse(node=pending(entry))
        return pb.GetNodeResponse(node=self._views.node(self._nodes.find(request.node_id)))

    async def ApproveNode(self, request: pb.ApproveNodeRequest, context: Any) -> pb.ApproveNodeResponse:
        entry = self._approvals.approve(request.node_id, request.approval_code)
        return pb.ApproveNodeResponse(node=pending(entry))

    async def RejectNode(self, request: pb.RejectNodeRequest, context: Any) -> pb.RejectNodeResponse:
        self._approvals.reject(request.node_id)
        return pb.RejectNodeResponse()

    async def DrainNode(
        self, request: pb.DrainNodeRequest, context: Any
    ) -> AsyncIterator[pb.DrainNodeResponse]:
        node = self._nodes.find(request.node_id)
        drain = await self._drains.start(node, _deadline(request.deadline_seconds) or self._default_deadline())
        if drain is not None:
            async for progress in self._drains.watch(drain):
                yield pb.DrainNodeResponse(
                    state=pb.NODE_STATE_DRAINING, running_task_count=progress.running,
                    moved_result_count=progress.moved, total_result_count=progress.total, message=progress.message,
                )
        message = f"{node.node_id} is drained"
        total = drain.progress.total if drain else 0
        yield pb.DrainNodeResponse(
            state=pb.NODE_STATE_DRAINED, moved_result_count=total, total_result_count=total, message=message
        )

    async def UndrainNode(self, request: pb.UndrainNodeRequest, context: Any) -> pb.UndrainNodeResponse:
        node = self._nodes.find(request.node_id)
        await self._drains.undrain(node)
        return pb.UndrainNodeResponse(node=self._views.node(node))

    async def RemoveNode(self, request: pb.RemoveNodeRequest, context: Any) -> pb.RemoveNodeResponse:
        await self._removal.remove(self._nodes.find(request.node_id))
        return pb.RemoveNodeResponse()


def _deadline(seconds: float) -> float:
    if not math.isfinite(seconds) or not 0 <= seconds <= _LONGEST_DEADLINE_SECONDS:
        raise BadRequest(what="deadline", reason=f"{seconds:g} s is not within 30 days")
    return seconds
