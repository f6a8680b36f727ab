"""A cluster's trust, put together for tests: authorities, tokens, enrolment and access on a store of its own."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc

from clusterai.pki import key_pem, new_csr, new_key
from clusterai.rpc import SERVER_OPTIONS
from clusterai.tokens import JoinToken
from clusterai.v1.enrollment_pb2_grpc import add_EnrollmentServiceServicer_to_server
from clusterai.v1.operator_pb2_grpc import add_OperatorServiceServicer_to_server
from clusterai.v1.token_pb2_grpc import add_TokenServiceServicer_to_server
from clusterai.v1.types_pb2 import NodeFacts
from clusteraid.access import Access, Listener
from clusteraid.approvals import Approvals
from clusteraid.attempts import Attempts
from clusteraid.authority import Authority, DaemonCertificate, Renewals
from clusteraid.enrollment import Admission, Enrollment
from clusteraid.interceptors import Boundary
from clusteraid.join_tokens import JoinTokens, TokenRequest
from clusteraid.operators import Operators
from clusteraid.ports import Role
from clusteraid.revocation import Revocations
from clusteraid.servicers.enrollment import EnrollmentServicer
from clusteraid.servicers.operator import OperatorServicer
from clusteraid.servicers.token import TokenServicer
from clusteraid.store import Store
from clusteraid.store_access import AccessStore
from clusteraid.store_nodes import NodeStore


class Notes:
    """An event log that remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []

    def note(self, kind: str, subject: str, message: str) -> None:
        self.events.append((kind, subject, message))

    def kinds(self) -> list[str]:
        """The kinds noted, in order."""
        return [kind for kind, _, _ in self.events]


class Clock:
    """The wall clock, moved by hand."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class Trust:
    """The parts of the daemon that decide who is let in."""

    def __init__(self, directory: Path, store: Store, approval_seconds: float) -> None:
        self.clock, self.events = Clock(), Notes()
        self.authority = Authority.open(directory / "pki")
        self.store = AccessStore(store, self.authority.cluster_id)
        self._nodes = NodeStore(store, self.authority.cluster_id)
        self.certificate = DaemonCertificate(self.authority)
        self.revocations = Revocations(self.store, self.clock)
        self.tokens = JoinTokens(self.store, self.events, self.authority.ca_sha256, self.clock)
        self.attempts = Attempts(self.clock)
        self.enrollment = Enrollment(
            self.store, self.tokens, self.authority, self.revocations, self.attempts, self.events, self.clock
        )
        self.approvals = Approvals(
            self.enrollment, self.attempts, self.events, self.authority.ca_sha256, self.clock, approval_seconds
        )
        self.operators = Operators(self.store, self.authority, self.revocations, self.events)
        self.enrollment.on_enrolled(self.operators.operator_enrolled)
        self.renewals = Renewals(self.authority, self.store, self.revocations)
        self.access = Access(
            self.authority.cluster_id, self.revocations.is_revoked, self.operators.role_of, self.clock
        )
        self.enrollment_address = self.address = ""

    @classmethod
    @asynccontextmanager
    async def open(cls, directory: Path, *, approval_seconds: float = 900) -> AsyncIterator["Trust"]:
        """Open a cluster's trust in the directory; it is the same one when opened there again."""
        async with Store.open(directory / "clusteraid.sqlite") as store:
            trust = cls(directory, store, approval_seconds)
            await trust.revocations.load()
            await trust.operators.load()
            yield trust

    async def nodes(self) -> list[str]:
        """The names of the nodes that joined."""
        return [record.node_id for record in await self._nodes.list_nodes()]

    async def facts(self, name: str) -> NodeFacts:
        """What a node said about itself when it joined."""
        found = [record.facts for record in await self._nodes.list_nodes() if record.node_id == name]
        return NodeFacts.FromString(found[0])

    async def uses(self, token: JoinToken) -> int:
        """How often the token was used."""
        found = await self.store.find_token(token.token_id)
        assert found
        return found.use_count

    async def token(self, request: TokenRequest | None = None) -> JoinToken:
        """Make a join token."""
        token, _ = await self.tokens.create(request or TokenRequest(created_by="test"))
        return token

    async def member(self, name: str, role: Role = Role.NODE) -> tuple[bytes, bytes]:
        """Return key and chain of a node or operator that has joined."""
        token, key = await self.token(TokenRequest(role=role, bound_name=name, created_by="test")), new_key()
        admission = Admission(name, new_csr(key), b"", self.clock(), "127.0.0.1")
        grant = await self.enrollment.enroll(token.token_id, token.secret, admission)
        return key_pem(key), grant.issued.chain_pem

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Trust"]:
        """Serve enrolment on one port and the other services on another, mTLS on, until the end of the block."""
        async with AsyncExitStack() as servers:
            open_server = await servers.enter_async_context(self._server(Listener.ENROLLMENT))
            closed_server = await servers.enter_async_context(self._server(Listener.MUTUAL_TLS))
            servicer = EnrollmentServicer(
                self.enrollment, self.approvals, self.authority.ca_pem, lambda: [self.address]
            )
            add_EnrollmentServiceServicer_to_server(servicer, open_server)
            add_TokenServiceServicer_to_server(TokenServicer(self.tokens, lambda: ["t:1"], lambda: None), closed_server)
            operators = OperatorServicer(self.operators, self.renewals, self.authority.ca_pem)
            add_OperatorServiceServicer_to_server(operators, closed_server)
            await asyncio.gather(open_server.start(), closed_server.start())
            yield self

    @asynccontextmanager
    async def _server(self, listener: Listener) -> AsyncIterator[grpc.aio.Server]:
        server = grpc.aio.server(interceptors=[Boundary(self.access, listener)], options=SERVER_OPTIONS)
        mutual = listener is Listener.MUTUAL_TLS
        port = server.add_secure_port("127.0.0.1:0", self.certificate.server_credentials(require_client=mutual))
        if mutual:
            self.address = f"127.0.0.1:{port}"
        else:
            self.enrollment_address = f"127.0.0.1:{port}"
        try:
            yield server
        finally:
            await server.stop(0)
