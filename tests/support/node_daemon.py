"""The daemon's side of an agent's session, in small: a real gRPC server with mTLS that says what a test tells it to."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc

from clusterai.ids import ClusterId, NodeId
from clusterai.models import gate_name
from clusterai.pki import CertificateAuthority, key_pem, new_csr, new_key
from clusterai.rpc import SERVER_OPTIONS
from clusterai.v1 import node_pb2 as pb
from clusterai.v1.node_pb2_grpc import NodeServiceServicer, add_NodeServiceServicer_to_server
from clusterai.v1.types_pb2 import EnvironmentSpec, PoolSpec, WorkerSpec
from clusterai_agent.home import Home, Membership

CLUSTER_ID = ClusterId("c-test")
END = object()


@dataclass
class Stream:
    """One session as the daemon saw it."""

    hello: pb.Hello
    opened: float
    certificate: bytes = b""
    closed: float = 0.0
    heartbeats: list[pb.Heartbeat] = field(default_factory=list)
    heard: list[float] = field(default_factory=list)
    statuses: list[pb.NodeStatus] = field(default_factory=list)
    log_chunks: list[pb.LogChunk] = field(default_factory=list)
    outbox: "asyncio.Queue[Any]" = field(default_factory=asyncio.Queue)

    def send(self, **message: Any) -> None:
        """Send one SessionResponse."""
        self.outbox.put_nowait(pb.SessionResponse(**message))


class NodeDaemon(NodeServiceServicer):
    """Plays the daemon to agents of one cluster. Tests set the fields and read `streams`."""

    def __init__(self) -> None:
        self.cluster_ca = CertificateAuthority.create("cluster", f"spiffe://{CLUSTER_ID}")
        self.dask_ca = CertificateAuthority.create("dask")
        self.streams: list[Stream] = []
        self.interval = 0.05
        self.spec = pb.NodeSpec(generation=1, reason="nothing to do")
        self.server_addresses: list[str] = []
        self.refusal: pb.Farewell | None = None
        self.drops_next_session = False  # taken, but its welcome never arrives
        self.lock_text = ""
        self.python_minor = "3.11"
        self.lifetime = self.gate_lifetime = timedelta(days=7)
        self.break_renewals = False
        self.renewals: list[int] = []
        self.port = 0
        self._server: Any = None

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    @property
    def environment_hash(self) -> str:
        """The hash of the environment that it wants."""
        return hashlib.sha256(f"{self.python_minor}\n{self.lock_text}".encode()).hexdigest()[:16]

    @property
    def last(self) -> Stream:
        """The newest session."""
        return self.streams[-1]

    def want(self, *workers: WorkerSpec, generation: int, scheduler: str = "tls://127.0.0.1:9") -> None:
        """Make this the node's desired state, and tell the newest session."""
        environment = EnvironmentSpec(environment_hash=self.environment_hash, python_minor=self.python_minor)
        pool = PoolSpec(pool_name="main", scheduler_address=scheduler, environment=environment)
        self.spec = pb.NodeSpec(generation=generation, pool=pool, workers=workers, build_environment=True)
        if self.streams and not self.last.closed:
            self.last.send(spec=self.spec)

    def enrol(
        self, home: Home, name: str = "n", *, addresses: tuple[str, ...] = (), lifetime: timedelta | None = None
    ) -> None:
        """Make the home a node's, as if it had joined."""
        key = new_key()
        uri = f"spiffe://{CLUSTER_ID}/node/{name}"
        issued = self.cluster_ca.issue(new_csr(key), uri, lifetime=lifetime or self.lifetime)
        home.directory.mkdir(parents=True, exist_ok=True)
        membership = Membership(NodeId(name), CLUSTER_ID, addresses)
        home.store(membership, key_pem(key), issued.chain_pem, self.cluster_ca.cert_pem)

    async def start(self) -> None:
        """Listen, on the port of before if there was one."""
        key = new_key()
        issued = self.cluster_ca.issue(
            new_csr(key), f"spiffe://{CLUSTER_ID}/daemon", dns=["clusteraid"], server=True, client=False
        )
        credentials = grpc.ssl_server_credentials(
            [(key_pem(key), issued.chain_pem)], self.cluster_ca.cert_pem, require_client_auth=True
        )
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        add_NodeServiceServicer_to_server(self, self._server)
        self.port = self._server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
        await self._server.start()

    async def stop(self) -> None:
        """End at once, as when killed."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(0)

    @classmethod
    @asynccontextmanager
    async def serving(cls) -> "AsyncIterator[NodeDaemon]":
        """A daemon that listens until the end of the block."""
        daemon = cls()
        await daemon.start()
        try:
            yield daemon
        finally:
            await daemon.stop()

    async def Session(self, request_iterator: Any, context: Any) -> AsyncIterator[pb.SessionResponse]:
        requests = request_iterator.__aiter__()
        hello = (await requests.__anext__()).hello
        if self.refusal is not None:
            yield pb.SessionResponse(farewell=self.refusal)
            return
        stream = Stream(hello, time.monotonic(), context.auth_context()["x509_pem_cert"][0])
        for older in self.streams:
            if not older.closed:
                older.send(farewell=pb.Farewell(reason=pb.Farewell.REASON_REPLACED, detail="a newer session"))
        self.streams.append(stream)
        if self.drops_next_session:
            self.drops_next_session, stream.closed = False, stream.opened
            return
        reading = asyncio.create_task(self._read(requests, stream), name="daemon reads")
        try:
            yield pb.SessionResponse(welcome=self._welcome())
            while (message := await stream.outbox.get()) is not END:
                yield message
                if message.HasField("farewell"):
                    return
        finally:
            stream.closed = time.monotonic()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def Renew(self, request: pb.RenewRequest, context: Any) -> pb.RenewResponse:
        self.renewals.append(request.kind)
        if request.kind == pb.CERTIFICATE_KIND_DASK:
            issued = self.dask_ca.issue(request.csr_der, f"spiffe://{CLUSTER_ID}/dask/main/n", server=True)
            return pb.RenewResponse(certificate_chain_der=issued.chain_der, ca_bundle_pem=self.dask_ca.cert_pem)
        if request.kind == pb.CERTIFICATE_KIND_GATE:
            issued = self.cluster_ca.issue(
                request.csr_der, f"spiffe://{CLUSTER_ID}/gate/n", lifetime=self.gate_lifetime,
                dns=(gate_name("n"),), server=True,
            )  # fmt: skip
            return pb.RenewResponse(certificate_chain_der=issued.chain_der, ca_bundle_pem=self.cluster_ca.cert_pem)
        authority = CertificateAuthority.create("another") if self.break_renewals else self.cluster_ca
        issued = authority.issue(request.csr_der, f"spiffe://{CLUSTER_ID}/node/n", lifetime=self.lifetime)
        return pb.RenewResponse(certificate_chain_der=issued.chain_der, ca_bundle_pem=self.cluster_ca.cert_pem)

    async def GetEnvironmentLock(
        self, request: pb.GetEnvironmentLockRequest, context: Any
    ) -> pb.GetEnvironmentLockResponse:
        return pb.GetEnvironmentLockResponse(python_minor=self.python_minor, lock_text=self.lock_text)

    def _welcome(self) -> pb.Welcome:
        return pb.Welcome(
            node_id="n",
            epoch=len(self.streams),
            heartbeat_interval_seconds=self.interval,
            spec=self.spec,
            server_clock_unix_seconds=time.time(),
            server_addresses=self.server_addresses,
        )

    async def _read(self, requests: Any, stream: Stream) -> None:
        async for request in requests:
            match request.WhichOneof("message"):
                case "heartbeat":
                    stream.heartbeats.append(request.heartbeat)
                    stream.heard.append(time.monotonic())
                case "status":
                    stream.statuses.append(request.status)
                case "log_chunk":
                    stream.log_chunks.append(request.log_chunk)
        stream.outbox.put_nowait(END)


def agent_toml(directory: Path, *addresses: str, extra: str = "") -> Path:
    """Write an agent.toml that keeps everything below the directory; return its path."""
    listed = ", ".join(f'"{address}"' for address in addresses)
    text = f"""
[server]
addresses = [{listed}]
discover = false
local_token_file = "{directory}/local.token"
[state]
directory = "{directory}/agent"
compute_directory = "{directory}/compute"
scratch_directory = "{directory}/dask"
[units]
back_end = "process"
{extra}
"""
    path = directory / "agent.toml"
    path.write_text(text)
    return path
