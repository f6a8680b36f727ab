"""OperatorService: people with operator certificates."""

from typing import Any

from clusterai.v1 import operator_pb2 as pb
from clusterai.v1.operator_pb2_grpc import OperatorServiceServicer
from clusteraid.access import CURRENT_CALLER
from clusteraid.authority import Renewals
from clusteraid.operators import Operators
from clusteraid.ports import OperatorRecord
from clusteraid.servicers.token import role_to_wire


class OperatorServicer(OperatorServiceServicer):
    """The servicer of operators."""

    def __init__(self, operators: Operators, renewals: Renewals, ca_pem: bytes) -> None:
        self._operators, self._renewals, self._ca_pem = operators, renewals, ca_pem

    async def ListOperators(self, request: pb.ListOperatorsRequest, context: Any) -> pb.ListOperatorsResponse:
        return pb.ListOperatorsResponse(operators=[_to_wire(record) for record in await self._operators.list()])

    async def RevokeOperator(self, request: pb.RevokeOperatorRequest, context: Any) -> pb.RevokeOperatorResponse:
        await self._operators.revoke(request.name)
        return pb.RevokeOperatorResponse()

    async def RenewOperator(self, request: pb.RenewOperatorRequest, context: Any) -> pb.RenewOperatorResponse:
        issued = await self._renewals.renew(CURRENT_CALLER.get(), request.csr_der)
        return pb.RenewOperatorResponse(certificate_chain_der=issued.chain_der, ca_bundle_pem=self._ca_pem)


def _to_wire(record: OperatorRecord) -> pb.Operator:
    return pb.Operator(
        name=record.name,
        role=role_to_wire(record.role),
        certificate_expires_unix_seconds=record.certificate_not_after,
        created_unix_seconds=record.created_at,
    )
