"""A small daemon for tests of its clients: the real servicers over real gRPC, with made-up but plausible data.

It answers on a Unix socket, on an mTLS port and on an enrolment port of loopback. Tests change `cluster` (what it
knows) and read `requests` (what it was asked).
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

from clusterai.errors import ClusterAIError, Status
from clusterai.pki import CertificateAuthority, key_pem, new_csr, new_key
from clusterai.rpc import SERVER_OPTIONS, error_metadata, status_of
from clusterai.tokens import JoinToken
from clusterai.v1 import (
    cluster_pb2,
    cluster_pb2_grpc,
    enrollment_pb2,
    enrollment_pb2_grpc,
    event_pb2,
    event_pb2_grpc,
    key_pb2,
    key_pb2_grpc,
    log_pb2,
    log_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    node_admin_pb2,
    node_admin_pb2_grpc,
    operator_pb2,
    operator_pb2_grpc,
    token_pb2,
    token_pb2_grpc,
    types_pb2,
    unit_pb2,
    unit_pb2_grpc,
    worker_pb2,
    worker_pb2_grpc,
)
from support import model_samples, samples
from support.fake_models import FakeKeys, FakeModels

CLUSTER_ID = "c-5f1e0a77"
_CLOSE_SECONDS = 0.2


class NodeMissing(ClusterAIError):
    code, status = "node-missing", Status.NOT_FOUND
    message = "there is no node {node!r}"
    hint = "see `clusteractl node list`"


class Refused(ClusterAIError):
    code, status = "role-refused", Status.DENIED
    message = "your role viewer may not call {method}"
    hint = "ask an admin of the cluster"


@dataclass
class MadeUpCluster:
    """What the fake daemon knows. Tests put what they need."""

    nodes: list[node_admin_pb2.Node] = field(default_factory=list)
    tokens: list[token_pb2.Token] = field(default_factory=list)
    setup: tuple[str, str] = ("", "")  # address and hash of the script for new machines
    operators: list[operator_pb2.Operator] = field(default_factory=list)
    units: list[unit_pb2.Unit] = field(default_factory=list)
    events: list[event_pb2.Event] = field(default_factory=list)
    log_lines: list[types_pb2.LogLine] = field(default_factory=list)
    checks: list[cluster_pb2.CheckResult] = field(default_factory=list)
    drain_steps: list[node_admin_pb2.DrainNodeResponse] = field(default_factory=list)
    status: cluster_pb2.GetStatusResponse = field(default_factory=cluster_pb2.GetStatusResponse)
    models: model_pb2.ListModelsResponse = field(default_factory=model_pb2.ListModelsResponse)
    candidates: list[model_pb2.Candidate] = field(default_factory=list)
    pull_steps: list[model_pb2.PullModelResponse] = field(default_factory=list)
    catalog: model_pb2.ListCatalogResponse = field(default_factory=model_pb2.ListCatalogResponse)
    recommendations: list[model_pb2.Recommendation] = field(default_factory=list)
    routes: dict[str, model_pb2.ExplainRouteResponse] = field(default_factory=dict)
    keys: list[key_pb2.Key] = field(default_factory=list)
    scheduler_address: str = "tls://tower:8786"
    environment: types_pb2.EnvironmentSpec = field(default_factory=types_pb2.EnvironmentSpec)
    lock_text: str = ""
    refused: set[str] = field(default_factory=set)
    clock_offset_seconds: float = 0.0
    certificate_lifetime: timedelta = timedelta(days=7)
    enrols_as: str = "operator"
    stream_pause_seconds: float = 0.0
    answer_delay_seconds: float = 0.0


@dataclass
class FakeDaemon:
    """A running fake: where it listens, its authorities, what it knows and what it was asked."""

    socket: Path
    cluster: MadeUpCluster
    authority: CertificateAuthority
    dask_authority: CertificateAuthority
    requests: list[tuple[str, Message]] = field(default_factory=list)
    address: str = ""
    enrollment_address: str = ""
    servers: list[grpc.aio.Server] = field(default_factory=list)

    async def stop(self) -> None:
        """Go away, as a daemon that is stopped."""
        for server in self.servers:
            await server.stop(_CLOSE_SECONDS)

    def token(self) -> JoinToken:
        """A token that this daemon takes; its id names the operator `ann`."""
        return JoinToken.new(self.authority.spki_sha256)

    def asked(self, method: str) -> list[Any]:
        """The requests of one method, oldest first."""
        return [request for name, request in self.requests if name == method]

    async def heard(self, method: str, request: Message, context: Any) -> None:
        """Note the request; refuse it when the test wants that."""
        self.requests.append((method, request))
        if self.cluster.answer_delay_seconds:
            await asyncio.sleep(self.cluster.answer_delay_seconds)
        if method in self.cluster.refused:
            await _abort(context, Refused(method=method))

    async def node(self, node_id: str, context: Any) -> node_admin_pb2.Node:
        """The node of that id, or NOT_FOUND."""
        for node in self.cluster.nodes:
            if node.node_id == node_id:
                return node
        await _abort(context, NodeMissing(node=node_id))
        raise AssertionError


async def _abort(context: Any, error: ClusterAIError) -> None:
    await context.abort(status_of(error), str(error), error_metadata(error))


class _Service:
    def __init__(self, daemon: FakeDaemon) -> None:
        self._daemon, self._cluster = daemon, daemon.cluster


class _Cluster(_Service, cluster_pb2_grpc.ClusterServiceServicer):
    async def GetStatus(self, request: Any, context: Any) -> cluster_pb2.GetStatusResponse:
        await self._daemon.heard("GetStatus", request, context)
        reply = cluster_pb2.GetStatusResponse()
        reply.CopyFrom(self._cluster.status)
        reply.clock_unix_seconds = time.time() + self._cluster.clock_offset_seconds
        reply.ca_pem = self._daemon.authority.cert_pem.decode()
        return reply

    async def RunChecks(self, request: Any, context: Any) -> cluster_pb2.RunChecksResponse:
        await self._daemon.heard("RunChecks", request, context)
        return cluster_pb2.RunChecksResponse(checks=self._cluster.checks)


class _Nodes(_Service, node_admin_pb2_grpc.NodeAdminServiceServicer):
    async def ListNodes(self, request: Any, context: Any) -> node_admin_pb2.ListNodesResponse:
        await self._daemon.heard("ListNodes", request, context)
        return node_admin_pb2.ListNodesResponse(nodes=self._cluster.nodes)

    async def GetNode(self, request: Any, context: Any) -> node_admin_pb2.GetNodeResponse:
        await self._daemon.heard("GetNode", request, context)
        return node_admin_pb2.GetNodeResponse(node=await self._daemon.node(request.node_id, context))

    async def ApproveNode(self, request: Any, context: Any) -> node_admin_pb2.ApproveNodeResponse:
        await self._daemon.heard("ApproveNode", request, context)
        return node_admin_pb2.ApproveNodeResponse(node=await self._daemon.node(request.node_id, context))

    async def RejectNode(self, request: Any, context: Any) -> node_admin_pb2.RejectNodeResponse:
        await self._daemon.heard("RejectNode", request, context)
        await self._daemon.node(request.node_id, context)
        return node_admin_pb2.RejectNodeResponse()

    async def DrainNode(self, request: Any, context: Any) -> AsyncIterator[node_admin_pb2.DrainNodeResponse]:
        await self._daemon.heard("DrainNode", request, context)
        await self._daemon.node(request.node_id, context)
        for step in self._cluster.drain_steps:
            yield step
            await asyncio.sleep(self._cluster.stream_pause_seconds)

    async def UndrainNode(self, request: Any, context: Any) -> node_admin_pb2.UndrainNodeResponse:
        await self._daemon.heard("UndrainNode", request, context)
        return node_admin_pb2.UndrainNodeResponse(node=await self._daemon.node(request.node_id, context))

    async def RemoveNode(self, request: Any, context: Any) -> node_admin_pb2.RemoveNodeResponse:
        await self._daemon.heard("RemoveNode", request, context)
        self._cluster.nodes.remove(await self._daemon.node(request.node_id, context))
        return node_admin_pb2.RemoveNodeResponse()


class _Tokens(_Service, token_pb2_grpc.TokenServiceServicer):
    async def CreateToken(self, request: Any, context: Any) -> token_pb2.CreateTokenResponse:
        await self._daemon.heard("CreateToken", request, context)
        now, token = time.time(), self._daemon.token()
        details = token_pb2.Token(
            token_id=token.token_id,
            role=request.role,
            bound_name=request.bound_name,
            created_unix_seconds=now,
            expires_unix_seconds=now + request.ttl_seconds,
            use_limit=request.use_limit,
            created_by="local",
        )
        self._cluster.tokens.append(details)
        addresses = ["tower.lan:7444", "192.0.2.10:7444"]
        url, sha256 = self._cluster.setup
        return token_pb2.CreateTokenResponse(
            token=str(token), details=details, server_addresses=addresses, setup_url=url, setup_sha256=sha256
        )

    async def ListTokens(self, request: Any, context: Any) -> token_pb2.ListTokensResponse:
        await self._daemon.heard("ListTokens", request, context)
        return token_pb2.ListTokensResponse(tokens=self._cluster.tokens)

    async def RevokeToken(self, request: Any, context: Any) -> token_pb2.RevokeTokenResponse:
        await self._daemon.heard("RevokeToken", request, context)
        return token_pb2.RevokeTokenResponse()


class _Operators(_Service, operator_pb2_grpc.OperatorServiceServicer):
    async def ListOperators(self, request: Any, context: Any) -> operator_pb2.ListOperatorsResponse:
        await self._daemon.heard("ListOperators", request, context)
        return operator_pb2.ListOperatorsResponse(operators=self._cluster.operators)

    async def RevokeOperator(self, request: Any, context: Any) -> operator_pb2.RevokeOperatorResponse:
        await self._daemon.heard("RevokeOperator", request, context)
        return operator_pb2.RevokeOperatorResponse()

    async def RenewOperator(self, request: Any, context: Any) -> operator_pb2.RenewOperatorResponse:
        await self._daemon.heard("RenewOperator", request, context)
        issued = self._daemon.authority.issue(request.csr_der, f"spiffe://{CLUSTER_ID}/operator/ann")
        return operator_pb2.RenewOperatorResponse(
            certificate_chain_der=issued.chain_der, ca_bundle_pem=self._daemon.authority.cert_pem
        )


class _Units(_Service, unit_pb2_grpc.UnitServiceServicer):
    async def ListUnits(self, request: Any, context: Any) -> unit_pb2.ListUnitsResponse:
        await self._daemon.heard("ListUnits", request, context)
        return unit_pb2.ListUnitsResponse(units=self._cluster.units, back_end="systemd")

    async def StartUnit(self, request: Any, context: Any) -> unit_pb2.StartUnitResponse:
        await self._daemon.heard("StartUnit", request, context)
        return unit_pb2.StartUnitResponse(unit=_unit(request.unit, "active", "running"))

    async def StopUnit(self, request: Any, context: Any) -> unit_pb2.StopUnitResponse:
        await self._daemon.heard("StopUnit", request, context)
        return unit_pb2.StopUnitResponse(unit=_unit(request.unit, "inactive", "dead"))

    async def RestartUnit(self, request: Any, context: Any) -> unit_pb2.RestartUnitResponse:
        await self._daemon.heard("RestartUnit", request, context)
        return unit_pb2.RestartUnitResponse(unit=_unit(request.unit, "active", "running"))


class _Workers(_Service, worker_pb2_grpc.WorkerServiceServicer):
    async def ListWorkers(self, request: Any, context: Any) -> worker_pb2.ListWorkersResponse:
        await self._daemon.heard("ListWorkers", request, context)
        workers = [worker for node in self._cluster.nodes for worker in node.workers]
        return worker_pb2.ListWorkersResponse(workers=workers)

    async def IssueDaskClient(self, request: Any, context: Any) -> worker_pb2.IssueDaskClientResponse:
        await self._daemon.heard("IssueDaskClient", request, context)
        pool = request.pool_name or "main"
        uri = f"spiffe://{CLUSTER_ID}/dask/{pool}/client"
        lifetime = self._cluster.certificate_lifetime
        issued = self._daemon.dask_authority.issue(request.csr_der, uri, lifetime=lifetime, server=True)
        return worker_pb2.IssueDaskClientResponse(
            certificate_chain_der=issued.chain_der,
            ca_bundle_pem=self._daemon.dask_authority.cert_pem,
            scheduler_address=self._cluster.scheduler_address,
            environment=self._cluster.environment,
            lock_text=self._cluster.lock_text,
            expires_unix_seconds=issued.not_after.timestamp(),
        )


class _Logs(_Service, log_pb2_grpc.LogServiceServicer):
    async def ReadLogs(self, request: Any, context: Any) -> AsyncIterator[log_pb2.ReadLogsResponse]:
        await self._daemon.heard("ReadLogs", request, context)
        for line in self._cluster.log_lines[-(request.line_count or 100) :]:
            yield log_pb2.ReadLogsResponse(lines=[line])
            await asyncio.sleep(self._cluster.stream_pause_seconds)
        if request.follow:
            await asyncio.Event().wait()


class _Events(_Service, event_pb2_grpc.EventServiceServicer):
    async def WatchEvents(self, request: Any, context: Any) -> AsyncIterator[event_pb2.WatchEventsResponse]:
        await self._daemon.heard("WatchEvents", request, context)
        for event in self._cluster.events:
            if event.sequence > request.after_sequence:
                yield event_pb2.WatchEventsResponse(event=event)
        if request.follow:
            await asyncio.Event().wait()


class _Enrollment(_Service, enrollment_pb2_grpc.EnrollmentServiceServicer):
    async def Enroll(self, request: Any, context: Any) -> enrollment_pb2.EnrollResponse:
        await self._daemon.heard("Enroll", request, context)
        uri = f"spiffe://{CLUSTER_ID}/{self._cluster.enrols_as}/{request.node_name or 'ann'}"
        lifetime = self._cluster.certificate_lifetime
        issued = self._daemon.authority.issue(request.csr_der, uri, lifetime=lifetime)
        return enrollment_pb2.EnrollResponse(
            certificate_chain_der=issued.chain_der,
            ca_bundle_pem=self._daemon.authority.cert_pem,
            identity=uri,
            cluster_id=CLUSTER_ID,
            server_addresses=[self._daemon.address],
        )


def _unit(name: str, active: str, sub: str) -> unit_pb2.Unit:
    return unit_pb2.Unit(unit=name, active_state=active, sub_state=sub, main_process_id=812, installed=True)


@asynccontextmanager
async def fake_daemon(directory: Path) -> AsyncIterator[FakeDaemon]:
    """Run a fake daemon with its socket in the directory and free ports on loopback."""
    authority = CertificateAuthority.create("Cluster AI test")
    daemon = FakeDaemon(directory / "d.sock", MadeUpCluster(), authority, CertificateAuthority.create("Dask test"))
    operators, enrollment = _operator_server(daemon), grpc.aio.server(options=SERVER_OPTIONS)
    add_enrollment: Any = enrollment_pb2_grpc.add_EnrollmentServiceServicer_to_server
    add_enrollment(_Enrollment(daemon), enrollment)
    operators.add_insecure_port(f"unix:{daemon.socket}")
    own = _server_certificate(authority)
    mutual = grpc.ssl_server_credentials([own], authority.cert_pem, require_client_auth=True)
    daemon.address = f"127.0.0.1:{operators.add_secure_port('127.0.0.1:0', mutual)}"
    port = enrollment.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([own]))
    daemon.enrollment_address = f"127.0.0.1:{port}"
    daemon.servers += [operators, enrollment]
    try:
        for server in daemon.servers:
            await server.start()
        yield daemon
    finally:
        await daemon.stop()


_SERVICES: tuple[tuple[Any, Any], ...] = (
    (cluster_pb2_grpc.add_ClusterServiceServicer_to_server, _Cluster),
    (node_admin_pb2_grpc.add_NodeAdminServiceServicer_to_server, _Nodes),
    (token_pb2_grpc.add_TokenServiceServicer_to_server, _Tokens),
    (operator_pb2_grpc.add_OperatorServiceServicer_to_server, _Operators),
    (unit_pb2_grpc.add_UnitServiceServicer_to_server, _Units),
    (worker_pb2_grpc.add_WorkerServiceServicer_to_server, _Workers),
    (log_pb2_grpc.add_LogServiceServicer_to_server, _Logs),
    (event_pb2_grpc.add_EventServiceServicer_to_server, _Events),
    (model_pb2_grpc.add_ModelServiceServicer_to_server, FakeModels),
    (key_pb2_grpc.add_KeyServiceServicer_to_server, FakeKeys),
)


def _operator_server(daemon: FakeDaemon) -> grpc.aio.Server:
    server = grpc.aio.server(options=SERVER_OPTIONS)
    for add, service in _SERVICES:
        add(service(daemon), server)
    return server


def _server_certificate(authority: CertificateAuthority) -> tuple[bytes, bytes]:
    key = new_key()
    uri = f"spiffe://{CLUSTER_ID}/daemon"
    issued = authority.issue(new_csr(key), uri, dns=("clusteraid",), server=True)
    return key_pem(key), issued.chain_pem


@asynccontextmanager
async def made_up_cluster() -> AsyncIterator[FakeDaemon]:
    """Run a fake daemon that knows the samples, in a temporary directory of its own with a short path."""
    with tempfile.TemporaryDirectory() as directory:
        async with fake_daemon(Path(directory)) as daemon:
            known = daemon.cluster
            known.nodes = [samples.tower(), samples.phone(), samples.stranger()]
            known.status, known.environment = samples.status(), samples.environment()
            known.tokens, known.operators = samples.tokens(), samples.operators()
            known.units, known.checks = samples.units(), samples.checks()
            known.events, known.log_lines = samples.events(), samples.log_lines()
            known.models, known.candidates = model_samples.models(), model_samples.candidates()
            known.catalog, known.recommendations = model_samples.catalog(), model_samples.recommendations()
            known.routes = {"llama3.2:3b": model_samples.route(), "qwen3:32b": model_samples.no_route()}
            known.pull_steps, known.keys = model_samples.pull_steps(), model_samples.keys()
            known.status.models.CopyFrom(model_samples.served())
            yield daemon
