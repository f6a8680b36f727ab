"""LogService: a unit's log, on the server or on a node."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from clusterai.errors import ClusterAIError, Status
from clusterai.journal import read_log
from clusterai.units import UnitsConfig
from clusterai.v1 import log_pb2 as pb
from clusterai.v1.log_pb2_grpc import LogServiceServicer
from clusterai.v1.types_pb2 import LogLine
from clusteraid.machine_units import MachineUnits
from clusteraid.nodes import Nodes
from clusteraid.sessions import Sessions

_DEFAULT_LINES, _MOST_LINES = 100, 10_000


class NodeAway(ClusterAIError):
    code, status = "node-away", Status.UNREACHABLE
    message = "{node_id} is not connected now, so its log cannot be read from here"
    hint = "read it on the node itself: `journalctl -u {unit}`"


class LogServicer(LogServiceServicer):
    def __init__(self, units: MachineUnits, units_config: UnitsConfig, nodes: Nodes, sessions: Sessions) -> None:
        self._units, self._units_config, self._nodes, self._sessions = units, units_config, nodes, sessions

    async def ReadLogs(self, request: pb.ReadLogsRequest, context: Any) -> AsyncIterator[pb.ReadLogsResponse]:
        count = min(request.line_count or _DEFAULT_LINES, _MOST_LINES)
        answers = self._of_node(request, count) if request.node_id else self._of_server(request, count)
        async with aclosing(answers) as responses:
            async for response in responses:
                yield response

    async def _of_server(self, request: pb.ReadLogsRequest, count: int) -> AsyncGenerator[pb.ReadLogsResponse, None]:
        unit = self._units.readable_unit(request.unit)
        entries = read_log(unit, line_count=count, follow=request.follow, units=self._units_config)
        async with aclosing(entries):
            async for entry in entries:
                line = LogLine(
                    time_unix_seconds=entry.time, unit=entry.unit, priority=entry.priority, message=entry.message
                )
                yield pb.ReadLogsResponse(lines=[line])

    async def _of_node(self, request: pb.ReadLogsRequest, count: int) -> AsyncGenerator[pb.ReadLogsResponse, None]:
        node = self._nodes.find(request.node_id)
        session = self._sessions.find(node.node_id)
        if session is None:
            raise NodeAway(node_id=node.node_id, unit=request.unit or "clusterai-agent")
        async with aclosing(session.logs.read(request.unit, count, follow=request.follow)) as chunks:
            async for lines in chunks:
                for line in lines:
                    line.node_id = node.node_id
                yield pb.ReadLogsResponse(lines=lines)
