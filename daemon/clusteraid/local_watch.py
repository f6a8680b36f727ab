"""How far the local cluster is: asked of the daemon through its socket, decided purely."""

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from clusterai.errors import ClusterAIError, Status
from clusterai.rpc import from_rpc_error, local_channel
from clusterai.v1 import node_admin_pb2 as admin
from clusterai.v1 import types_pb2 as types
from clusterai.v1.cluster_pb2 import GetStatusRequest, GetStatusResponse, PoolStatus
from clusterai.v1.worker_pb2 import IssueDaskClientRequest, IssueDaskClientResponse

Reply = TypeVar("Reply", bound=Message)
_CALL_SECONDS, _POLL_SECONDS, _BAR = 10.0, 0.2, 20
# Building an environment takes as long as the index needs, so that stage is bounded by the build itself.
STAGE_SECONDS = {"daemon": 60.0, "agent": 60.0, "environment": 3700.0, "scheduler": 60.0, "workers": 90.0}
_ENVIRONMENT_FAILED = (types.ENVIRONMENT_STATE_FAILED, types.ENVIRONMENT_STATE_INCOMPATIBLE)


class CannotStart(ClusterAIError):
    code, status = "local-start-failed", Status.FAILED
    message = "the local cluster does not start: {reason}"
    hint = "{fix}"


@dataclass(frozen=True)
class Stage:
    """What is being waited for, how far it is (0..1), and in what words. `failure` and `hint`: it will not come."""

    name: str
    ratio: float = 0.0
    text: str = ""
    failure: str = ""
    hint: str = ""


def stage_of(node: admin.Node | None, pool: PoolStatus | None) -> Stage:
    """Return what is missing until the cluster computes; the name is empty when nothing is."""
    if node is None or pool is None:
        return Stage("agent", text="the agent joins")
    environment = node.environment
    if environment.state in _ENVIRONMENT_FAILED:
        return Stage("environment", failure=environment.reason, hint=environment.hint)
    if node.state == admin.NODE_STATE_INCOMPATIBLE:
        return Stage("environment", failure=node.reason, hint=node.hint)
    if environment.state != types.ENVIRONMENT_STATE_READY:
        return Stage("environment", environment.progress_ratio, environment.reason or "preparing")
    if pool.scheduler_state == "failed":
        return Stage("scheduler", failure=pool.reason or "the scheduler failed")
    if pool.scheduler_state != "running":
        return Stage("scheduler", text=pool.reason or "the scheduler starts")
    wanted = len(node.workers)
    if not wanted or pool.worker_count < wanted:
        reasons = [worker.reason for worker in node.workers if worker.reason]
        return Stage("workers", pool.worker_count / max(1, wanted), "; ".join(reasons)[:200] or "workers register")
    return Stage("")


class DaemonClient:
    """The daemon, through its local socket."""

    def __init__(self, socket: Path) -> None:
        self._socket, self._channel = socket, local_channel(socket)

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close(None)

    async def stage(self) -> Stage:
        """Return what is missing now."""
        if not self._socket.exists():
            return Stage("daemon", text="the daemon starts")
        try:
            nodes = await self._call("NodeAdminService/ListNodes", admin.ListNodesRequest(), admin.ListNodesResponse)
            status = await self.status()
        except ClusterAIError as error:
            return Stage("daemon", text=str(error))
        return stage_of(next(iter(nodes.nodes), None), next(iter(status.pools), None))

    async def status(self) -> GetStatusResponse:
        """Return the cluster's status."""
        return await self._call("ClusterService/GetStatus", GetStatusRequest(), GetStatusResponse)

    async def dask_client(self, csr_der: bytes) -> IssueDaskClientResponse:
        """Return a certificate for a Dask client, and what it needs to connect."""
        request = IssueDaskClientRequest(csr_der=csr_der)
        return await self._call("WorkerService/IssueDaskClient", request, IssueDaskClientResponse)

    async def _call(self, method: str, request: Message, reply: type[Reply]) -> Reply:
        rpc = self._channel.unary_unary(
            f"/clusterai.v1.{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=reply.FromString,
        )
        try:
            answer: Reply = await rpc(request, timeout=_CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, os.fspath(self._socket)) from error
        return answer


async def wait_until_up(client: DaemonClient, show: "Show", logs: Path) -> None:
    """Wait until the workers are registered; each stage has its own deadline.

    Raises:
        CannotStart: a part failed or took too long, with the reason and the fix.
    """
    loop = asyncio.get_running_loop()
    current, since = "", loop.time()
    while (stage := await client.stage()).name:
        if stage.failure:
            raise CannotStart(reason=stage.failure, fix=stage.hint or f"see the logs in {logs}")
        if stage.name != current:
            current, since = stage.name, loop.time()
        if loop.time() - since > STAGE_SECONDS[current]:
            reason = f"{stage.text or current} for more than {STAGE_SECONDS[current]:.0f} s"
            raise CannotStart(reason=reason, fix=f"see the logs in {logs}")
        show(stage)
        await asyncio.sleep(_POLL_SECONDS)


class Show:
    """Draws stages: one line on a terminal, redrawn; elsewhere a line for each new stage and each tenth of a build."""

    def __init__(self) -> None:
        self._stream = sys.stderr
        self._live = self._stream.isatty()
        self._last = ""

    def __call__(self, stage: Stage) -> None:
        """Show the stage."""
        step = int(stage.ratio * 10)
        if self._live:
            filled = int(stage.ratio * _BAR)
            bar = "█" * filled + "░" * (_BAR - filled) + " " if stage.name == "environment" else ""
            self._write(f"\r  {stage.name:<12}{bar}{stage.text}"[:79] + "\033[K")
        elif f"{stage.name}{step}" != self._last:
            done = f" {step * 10} %" if stage.name == "environment" else ""
            self._write(f"  {stage.name}{done}: {stage.text}\n")
        self._last = f"{stage.name}{step}"

    def done(self) -> None:
        """Take the line away."""
        if self._live and self._last:
            self._write("\r\033[K")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
