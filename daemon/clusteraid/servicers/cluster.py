"""ClusterService: the cluster as a whole."""

from typing import Any

from clusterai.v1 import cluster_pb2 as pb
from clusterai.v1.cluster_pb2_grpc import ClusterServiceServicer
from clusteraid.approvals import Approvals
from clusteraid.checks import Checks
from clusteraid.status import StatusReport


class ClusterServicer(ClusterServiceServicer):
    def __init__(self, report: StatusReport, checks: Checks, approvals: Approvals) -> None:
        self._report, self._checks, self._approvals = report, checks, approvals

    async def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.GetStatusResponse:
        return await self._report.response(pending=len(self._approvals.waiting()))

    async def RunChecks(self, request: pb.RunChecksRequest, context: Any) -> pb.RunChecksResponse:
        return pb.RunChecksResponse(checks=await self._checks.run())
