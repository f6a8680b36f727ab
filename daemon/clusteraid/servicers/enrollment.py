"""EnrollmentService: the only service of the enrolment port."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

from clusterai.errors import BadRequest, TimedOut
from clusterai.ids import suggest_node_id
from clusterai.v1 import enrollment_pb2 as pb
from clusterai.v1.enrollment_pb2_grpc import EnrollmentServiceServicer
from clusterai.v1.types_pb2 import NodeFacts
from clusteraid.access import CURRENT_CALLER
from clusteraid.approvals import Approvals
from clusteraid.enrollment import Admission, Enrollment, Grant

_ROUND_SECONDS = 30.0  # opening and reveal come from a machine, not from a person


class EnrollmentServicer(EnrollmentServiceServicer):
    """`server_addresses` returns the host:port of the mTLS port, for the new node to remember."""

    def __init__(
        self, enrollment: Enrollment, approvals: Approvals, ca_pem: bytes, server_addresses: Callable[[], Sequence[str]]
    ) -> None:
        self._enrollment, self._approvals = enrollment, approvals
        self._ca_pem, self._server_addresses = ca_pem, server_addresses

    async def Enroll(self, request: pb.EnrollRequest, context: Any) -> pb.EnrollResponse:
        admission = _admission(request.node_name, request.csr_der, request.facts, request.clock_unix_seconds)
        admission = replace(admission, wants_node=request.HasField("facts"))
        grant = await self._enrollment.enroll(request.token_id, request.token_secret, admission)
        return self._response(grant)

    async def RequestApproval(
        self, requests: AsyncIterator[pb.RequestApprovalRequest], context: Any
    ) -> AsyncIterator[pb.RequestApprovalResponse]:
        with self._approvals.round(CURRENT_CALLER.get().address):
            opening = (await _step(requests, "opening")).opening
            admission = _admission(opening.node_name, opening.csr_der, opening.facts, opening.facts.clock_unix_seconds)
            entry = await self._approvals.open(opening.commitment, admission)
            try:
                yield pb.RequestApprovalResponse(challenge=pb.ApprovalChallenge(nonce=entry.server_nonce))
                self._approvals.reveal(entry, (await _step(requests, "reveal")).reveal.nonce)
                grant = await self._approvals.settle(entry, lambda: _confirmation(requests))
                yield pb.RequestApprovalResponse(issued=self._response(grant))
            finally:
                self._approvals.close(entry)

    def _response(self, grant: Grant) -> pb.EnrollResponse:
        return pb.EnrollResponse(
            certificate_chain_der=grant.issued.chain_der,
            ca_bundle_pem=self._ca_pem,
            identity=str(grant.identity),
            cluster_id=grant.identity.cluster_id,
            server_addresses=self._server_addresses(),
        )


def _admission(name: str, csr_der: bytes, facts: NodeFacts, clock: float) -> Admission:
    suggested = suggest_node_id(facts.hostname) if facts.hostname else ""
    return Admission(name, csr_der, facts.SerializeToString(), clock, CURRENT_CALLER.get().address, suggested)


async def _step(requests: AsyncIterator[pb.RequestApprovalRequest], step: str) -> pb.RequestApprovalRequest:
    """Return the next message of the round if it is that step and comes in time."""
    try:
        async with asyncio.timeout(_ROUND_SECONDS):
            return await _message(requests, step)
    except TimeoutError as error:
        raise TimedOut(what=f"waiting for the {step}", limit=f"{_ROUND_SECONDS:.0f} s") from error


async def _confirmation(requests: AsyncIterator[pb.RequestApprovalRequest]) -> bool:
    return (await _message(requests, "confirmed")).confirmed.accepted


async def _message(requests: AsyncIterator[pb.RequestApprovalRequest], step: str) -> pb.RequestApprovalRequest:
    message = await anext(requests, None)
    if message is None or message.WhichOneof("step") != step:
        raise BadRequest(what="approval round", reason=f"the {step} is missing")
    return message
