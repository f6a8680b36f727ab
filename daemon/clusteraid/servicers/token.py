"""TokenService: join tokens, for admins."""

from collections.abc import Callable, Sequence
from typing import Any

from clusterai.errors import BadRequest
from clusterai.v1 import token_pb2 as pb
from clusterai.v1.token_pb2_grpc import TokenServiceServicer
from clusteraid.access import CURRENT_CALLER
from clusteraid.join_tokens import JoinTokens, TokenRequest
from clusteraid.ports import Role, TokenRecord
from clusteraid.repository.published import SetupScript

_ROLES: dict[int, Role] = {
    pb.ROLE_NODE: Role.NODE,
    pb.ROLE_VIEWER: Role.VIEWER,
    pb.ROLE_OPERATOR: Role.OPERATOR,
    pb.ROLE_ADMIN: Role.ADMIN,
}
_ON_THE_WIRE = {role: number for number, role in _ROLES.items()}


class TokenServicer(TokenServiceServicer):
    """With a new token come the host:port of the enrolment port, and where a new machine gets its packages."""

    def __init__(
        self, tokens: JoinTokens, enrollment_addresses: Callable[[], Sequence[str]],
        setup: Callable[[], SetupScript | None],
    ) -> None:  # fmt: skip
        self._tokens, self._enrollment_addresses, self._setup = tokens, enrollment_addresses, setup

    async def CreateToken(self, request: pb.CreateTokenRequest, context: Any) -> pb.CreateTokenResponse:
        role = role_from_wire(request.role or pb.ROLE_NODE)
        created_by = CURRENT_CALLER.get().name
        token, record = await self._tokens.create(
            TokenRequest(role, request.bound_name, request.ttl_seconds, request.use_limit, created_by)
        )
        addresses = self._enrollment_addresses()
        reply = pb.CreateTokenResponse(token=str(token), details=_to_wire(record), server_addresses=addresses)
        if setup := self._setup():
            reply.setup_url, reply.setup_sha256 = setup.url, setup.sha256
        return reply

    async def ListTokens(self, request: pb.ListTokensRequest, context: Any) -> pb.ListTokensResponse:
        return pb.ListTokensResponse(tokens=[_to_wire(record) for record in await self._tokens.list()])

    async def RevokeToken(self, request: pb.RevokeTokenRequest, context: Any) -> pb.RevokeTokenResponse:
        await self._tokens.revoke(request.token_id)
        return pb.RevokeTokenResponse()


def role_from_wire(number: int) -> Role:
    """Return the role; raise BadRequest for a number that a newer peer may know."""
    if number not in _ROLES:
        raise BadRequest(what="role", reason=f"number {number} is unknown here")
    return _ROLES[number]


def role_to_wire(role: Role) -> Any:
    """Return the wire's number of the role."""
    return _ON_THE_WIRE[role]


def _to_wire(record: TokenRecord) -> pb.Token:
    return pb.Token(
        token_id=record.token_id,
        role=role_to_wire(record.role),
        bound_name=record.bound_name,
        created_unix_seconds=record.created_at,
        expires_unix_seconds=record.expires_at,
        use_limit=record.use_limit,
        use_count=record.use_count,
        revoked=record.revoked,
        created_by=record.created_by,
    )
