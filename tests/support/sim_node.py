"""A node as the daemon sees one: enrolled with a token, holding a session over mTLS, saying what a test wants."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from clusterai.enroll_client import Enrolled, enroll
from clusterai.rpc import local_channel, secure_channel
from clusterai.v1.node_admin_pb2 import GetNodeRequest, Node, NodeState
from clusterai.v1.node_admin_pb2_grpc import NodeAdminServiceStub
from clusterai.v1.node_pb2 import Heartbeat, Hello, NodeStatus, SessionRequest, SessionResponse, Welcome
from clusterai.v1.node_pb2_grpc import NodeServiceStub
from clusterai.v1.types_pb2 import NodeFacts, Sample
from support.killable import KillableDaemon


def facts(**others: Any) -> NodeFacts:
    """The facts of a small machine that fits every pool."""
    values = {"hostname": "sim", "cpu_count": 4, "memory_total_bytes": 8 << 30, "clock_unix_seconds": time.time()}
    return NodeFacts(**{**values, "pythons": ["3.11", "3.12", "3.13"], **others})


class SimSession:
    """One stream of a node."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.welcome = Welcome()

    async def open(self, nonce: str, node_facts: NodeFacts, status: NodeStatus | None = None) -> "SimSession":
        """Say hello and take the welcome."""
        await self.call.write(SessionRequest(hello=Hello(facts=node_facts, session_nonce=nonce, status=status)))
        self.welcome = (await self.read()).welcome
        return self

    async def read(self) -> SessionResponse:
        """Return the next message, or fail at the end of the stream."""
        response = await self.call.read()
        assert isinstance(response, SessionResponse), f"the stream ended: {response!r}"
        return response

    async def read_until(self, kind: str) -> SessionResponse:
        """Return the next message of that kind."""
        while (response := await self.read()).WhichOneof("message") != kind:
            pass
        return response

    async def beat(self, sequence: int = 1) -> None:
        """Send a heartbeat."""
        await self.call.write(SessionRequest(heartbeat=Heartbeat(sequence=sequence, sample=Sample(load_1min=1))))

    async def report(self, status: NodeStatus) -> None:
        """Send a status."""
        await self.call.write(SessionRequest(status=status))


class SimNode:
    """An enrolled node and its channel to the daemon."""

    def __init__(self, name: str, enrolled: Enrolled, channel: grpc.aio.Channel) -> None:
        self.name, self.enrolled, self.channel = name, enrolled, channel
        self.stub: Any = NodeServiceStub(channel)

    async def session(self, nonce: str = "first", status: NodeStatus | None = None, **others: Any) -> SimSession:
        """Open a session."""
        return await SimSession(self.stub.Session(timeout=60)).open(nonce, facts(**others), status)


@asynccontextmanager
async def sim_node(daemon: KillableDaemon, name: str, **others: Any) -> AsyncIterator[SimNode]:
    """Enrol a node and yield it with a channel of its own."""
    told = facts(**others)
    enrolled = await enroll(await daemon.enrollment_address(), await daemon.token(), name=name, facts=told)
    async with channel_of(enrolled) as channel:
        yield SimNode(name, enrolled, channel)


@asynccontextmanager
async def channel_of(enrolled: Enrolled) -> AsyncIterator[grpc.aio.Channel]:
    """Yield a channel with the node's certificate."""
    address = enrolled.server_addresses[0]
    async with secure_channel(
        address, ca_pem=enrolled.ca_pem, chain_pem=enrolled.chain_pem, key_pem=enrolled.key_pem
    ) as channel:
        yield channel


@asynccontextmanager
async def operator(daemon: KillableDaemon, stub: Any) -> AsyncIterator[Any]:
    """Yield a stub of a service on the local socket."""
    async with local_channel(daemon.socket) as channel:
        yield stub(channel)


async def node(daemon: KillableDaemon, name: str) -> Node:
    """Return what the daemon shows of a node."""
    async with operator(daemon, NodeAdminServiceStub) as admin:
        found: Node = (await admin.GetNode(GetNodeRequest(node_id=name), timeout=60)).node
        return found


async def state(daemon: KillableDaemon, name: str) -> str:
    """Return the name of the node's state in lower case."""
    number = (await node(daemon, name)).state
    return str(NodeState.Name(number)).removeprefix("NODE_STATE_").lower()
