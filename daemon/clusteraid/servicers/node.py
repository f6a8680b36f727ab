"""NodeService: what agents call."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from clusterai.errors import BadRequest, TimedOut
from clusterai.ids import IdentityKind
from clusterai.v1.node_pb2 import (
    CERTIFICATE_KIND_DASK,
    CERTIFICATE_KIND_GATE,
    CERTIFICATE_KIND_NODE,
    GetEnvironmentLockRequest,
    GetEnvironmentLockResponse,
    Hello,
    RenewRequest,
    RenewResponse,
    SessionRequest,
)
from clusterai.v1.node_pb2_grpc import NodeServiceServicer
from clusteraid import sessions as live
from clusteraid.access import CURRENT_CALLER, Caller, NotIdentified
from clusteraid.authority import Authority, Renewals
from clusteraid.nodes import Nodes
from clusteraid.pools import Pools

_HELLO_SECONDS = 10.0


class NodeServicer(NodeServiceServicer):
    """Sessions, renewals and the environments' locks."""

    def __init__(
        self, sessions: live.Sessions, nodes: Nodes, authority: Authority, renewals: Renewals, pools: Pools
    ) -> None:
        self._sessions, self._nodes, self._authority, self._renewals = sessions, nodes, authority, renewals
        self._pools = pools

    async def Session(self, request_iterator: AsyncIterator[SessionRequest], context: Any) -> None:
        caller = CURRENT_CALLER.get()
        hello = await _hello(request_iterator)
        session = self._sessions.open(_node_id(caller), caller.address, hello, context.write)
        try:
            await self._read(session, request_iterator)
        except asyncio.CancelledError:
            if not session.ended:
                raise
            _resume()
        finally:
            await self._sessions.close(session)

    async def _read(self, session: live.Session, requests: AsyncIterator[SessionRequest]) -> None:
        received = self._sessions.received
        async for request in requests:
            received(session, request)

    async def Renew(self, request: RenewRequest, context: Any) -> RenewResponse:
        caller = CURRENT_CALLER.get()
        node = self._nodes.find(_node_id(caller))
        if request.kind == CERTIFICATE_KIND_DASK:
            dask = self._authority.dask(self._pools.require(node.is_phone).plan.name)
            issued = dask.issue(request.csr_der, node.node_id)
            return RenewResponse(certificate_chain_der=issued.chain_der, ca_bundle_pem=dask.ca_pem)
        if request.kind == CERTIFICATE_KIND_GATE:
            issued = await self._renewals.renew_gate(caller, request.csr_der)
            return RenewResponse(certificate_chain_der=issued.chain_der, ca_bundle_pem=self._authority.ca_pem)
        if request.kind != CERTIFICATE_KIND_NODE:
            raise BadRequest(what="kind", reason=f"{request.kind} is no kind of certificate")
        issued = await self._renewals.renew(caller, request.csr_der)
        self._nodes.certificate_renewed(node.node_id, issued.not_after.timestamp())
        return RenewResponse(certificate_chain_der=issued.chain_der, ca_bundle_pem=self._authority.ca_pem)

    async def GetEnvironmentLock(
        self, request: GetEnvironmentLockRequest, context: Any
    ) -> GetEnvironmentLockResponse:
        if request.environment_hash:
            pool = self._pools.with_environment(request.environment_hash)
        else:
            pool = self._pools.require(self._nodes.find(_node_id(CURRENT_CALLER.get())).is_phone)
        if pool is None:
            raise BadRequest(what="environment", reason=f"{request.environment_hash[:32]} is of no pool here")
        plan = pool.plan
        return GetEnvironmentLockResponse(python_minor=plan.environment.python_minor, lock_text=plan.lock_text)


async def _hello(requests: AsyncIterator[SessionRequest]) -> Hello:
    """Return the first message, which must be a hello."""
    try:
        async with asyncio.timeout(_HELLO_SECONDS):
            first = await anext(requests)
    except TimeoutError as error:
        raise TimedOut(what="the hello of a session", limit=f"{_HELLO_SECONDS:.0f} s") from error
    except StopAsyncIteration as error:
        raise BadRequest(what="session", reason="it ended without a hello") from error
    if first.WhichOneof("message") != "hello":
        raise BadRequest(what="session", reason="the first message is not a hello")
    return first.hello


def _node_id(caller: Caller) -> str:
    if caller.identity is None or caller.identity.kind is not IdentityKind.NODE:
        raise NotIdentified(reason="it is not a node's")
    return caller.identity.name


def _resume() -> None:
    """Go on after the daemon itself cancelled this task to end the stream."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()


