"""Who calls, and whether it may: one table from methods to roles; what is not in it is refused."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from functools import lru_cache

from clusterai.errors import ClusterAIError, InvalidName, Status
from clusterai.ids import ClusterId, Identity, IdentityKind
from clusterai.pki import serial_and_end
from clusteraid.ports import Role

_NODE = frozenset({Role.NODE})
_VIEW = frozenset({Role.VIEWER, Role.OPERATOR, Role.ADMIN})
_OPERATE = frozenset({Role.OPERATOR, Role.ADMIN})
_ADMINISTER = frozenset({Role.ADMIN})
_STRANGER = frozenset({Role.STRANGER})


def _service(name: str, **methods: frozenset[Role]) -> dict[str, frozenset[Role]]:
    return {f"/clusterai.v1.{name}/{method}": roles for method, roles in methods.items()}


ROLES: Mapping[str, frozenset[Role]] = {
    **_service("EnrollmentService", Enroll=_STRANGER, RequestApproval=_STRANGER),
    **_service("NodeService", Session=_NODE, Renew=_NODE, GetEnvironmentLock=_NODE),
    **_service("ClusterService", GetStatus=_VIEW, RunChecks=_VIEW),
    **_service("NodeAdminService", ListNodes=_VIEW, GetNode=_VIEW, DrainNode=_OPERATE, UndrainNode=_OPERATE),
    **_service("NodeAdminService", ApproveNode=_ADMINISTER, RejectNode=_ADMINISTER, RemoveNode=_ADMINISTER),
    **_service("UnitService", ListUnits=_VIEW, StartUnit=_OPERATE, StopUnit=_OPERATE, RestartUnit=_OPERATE),
    **_service("WorkerService", ListWorkers=_VIEW, IssueDaskClient=_OPERATE),
    **_service("LogService", ReadLogs=_OPERATE),
    **_service("EventService", WatchEvents=_VIEW),
    **_service("TokenService", CreateToken=_ADMINISTER, ListTokens=_ADMINISTER, RevokeToken=_ADMINISTER),
    **_service("ModelService", ListModels=_VIEW, ListCatalog=_VIEW, RecommendModels=_VIEW, ExplainRoute=_VIEW),
    **_service("ModelService", PullModel=_OPERATE, PlaceModel=_OPERATE, RemoveModel=_OPERATE, SyncModels=_OPERATE),
    **_service("KeyService", CreateKey=_ADMINISTER, ListKeys=_ADMINISTER, RevokeKey=_ADMINISTER),
    **_service("PolicyService", ShowPolicy=_VIEW, SetPolicy=_OPERATE),
    **_service("OperatorService", ListOperators=_ADMINISTER, RevokeOperator=_ADMINISTER, RenewOperator=_VIEW),
}


_TO_GET_A_ROLE = ": run it on the server as root, or `clusteractl login` with a token of that role"


class Denied(ClusterAIError):
    code, status = "denied", Status.DENIED
    message = "{caller} has the role {role} and may not call {method}"
    hint = "it takes the role {needed}{fix}"


class NotInTable(Denied):
    code = "not-in-table"
    message = "{caller} called {method}, which nobody may call here"
    hint = "both sides may run different versions: compare with `clusteractl version`"


class NotIdentified(ClusterAIError):
    code, status = "not-identified", Status.UNKNOWN_CALLER
    message = "the caller's certificate names nobody of this cluster: {reason}"
    hint = "join again with a token of this cluster (`clusterai-agent join` or `clusteractl login`)"


class Revoked(ClusterAIError):
    code, status = "revoked", Status.UNKNOWN_CALLER
    message = "the certificate of {caller} was revoked"
    hint = "if it belongs to the cluster, join again with a new token from `clusteractl token create`"


class Ended(ClusterAIError):
    code, status = "certificate-ended", Status.UNKNOWN_CALLER
    message = "the certificate of {caller} ended on {end:%F %T} UTC"
    hint = "compare the clocks of both machines; if they agree, join again with a new token of this cluster"


class Listener(Enum):
    """Where a call came in."""

    MUTUAL_TLS = auto()
    ENROLLMENT = auto()  # TLS without a client certificate
    LOCAL = auto()  # the Unix socket: who may open it is an admin


@dataclass(frozen=True)
class Caller:
    """Who calls: the identity of its certificate (none on the local socket and at enrolment), its role and address."""

    role: Role
    address: str
    identity: Identity | None = None
    serial: str = ""

    @property
    def name(self) -> str:
        """How logs and records name the caller."""
        if self.identity is None:
            return "local admin" if self.role is Role.ADMIN else self.address
        return f"{self.identity.kind.value} {self.identity.name}"


CURRENT_CALLER: ContextVar[Caller] = ContextVar("caller")  # set by the interceptor around each call


class OpenStreams:
    """The streams that operators have open: they end when their operator is revoked, not only when they are done."""

    def __init__(self) -> None:
        self._tasks: dict[Identity, set[asyncio.Task[object]]] = {}

    @contextmanager
    def opened(self, caller: Caller) -> Iterator[None]:
        """Run a stream of the caller in the running task.

        Raises:
            Revoked: it was ended by a revocation.
        """
        task, identity = asyncio.current_task(), caller.identity
        if task is None or identity is None or identity.kind is not IdentityKind.OPERATOR:
            yield  # a node's session ends by itself, with a farewell
            return
        tasks = self._tasks.setdefault(identity, set())
        tasks.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if task in tasks:
                raise
            task.uncancel()
            raise Revoked(caller=caller.name) from None
        finally:
            tasks.discard(task)
            if not tasks and self._tasks.get(identity) is tasks:
                del self._tasks[identity]

    def identity_revoked(self, identity: Identity) -> None:
        """Listen to revocations: end the identity's streams."""
        tasks = self._tasks.pop(identity, set())
        while tasks:  # one that is not among them any more knows why it ends
            tasks.pop().cancel()


class Access:
    """Decides each call from the table, the certificate, the deny-list and the operators' roles, all in memory.

    The certificate's end is looked at again: a resumed TLS session lets in one that ended since it was verified.
    """

    def __init__(
        self, cluster_id: ClusterId, is_revoked: Callable[[str], bool], role_of: Callable[[str], Role | None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cluster_id, self._is_revoked, self._role_of, self._clock = cluster_id, is_revoked, role_of, clock
        self.streams = OpenStreams()

    def authorize(
        self, method: str, listener: Listener, peer: str, auth_context: Mapping[str, Sequence[bytes]]
    ) -> Caller:
        """Return who calls the method (`/package.Service/Method`), given gRPC's peer and auth context.

        Raises:
            NotIdentified: no certificate, more than one name in it, or a name outside this cluster.
            Revoked: the certificate is on the deny-list, or its operator is no more.
            Ended: the certificate has ended.
            Denied: the role may not call this method.
        """
        caller, allowed = self._caller(listener, peer, auth_context), ROLES.get(method)
        if allowed is None:
            raise NotInTable(caller=caller.name, method=method[:120])
        if caller.role not in allowed:
            needed = " or ".join(sorted(role.value for role in allowed))
            fix = _TO_GET_A_ROLE if Role.ADMIN in allowed else ", which no person has: agents call it"
            raise Denied(caller=caller.name, role=caller.role.value, method=method[:120], needed=needed, fix=fix)
        return caller

    def _caller(self, listener: Listener, peer: str, auth_context: Mapping[str, Sequence[bytes]]) -> Caller:
        if listener is Listener.LOCAL:
            return Caller(Role.ADMIN, "local")
        if listener is Listener.ENROLLMENT:
            return Caller(Role.STRANGER, peer_address(peer))
        identity = _identity(auth_context.get("peer_spiffe_id", ()), self._cluster_id)
        serial, end = _serial_and_end(next(iter(auth_context.get("x509_pem_cert", ())), b""))
        role = Role.NODE if identity.kind is IdentityKind.NODE else self._role_of(identity.name)
        if self._is_revoked(serial) or role is None:
            raise Revoked(caller=f"{identity.kind.value} {identity.name}")
        if end.timestamp() < self._clock():
            raise Ended(caller=f"{identity.kind.value} {identity.name}", end=end)
        return Caller(role, peer_address(peer), identity, serial)


def _identity(spiffe_ids: Sequence[bytes], cluster_id: ClusterId) -> Identity:
    """GRPC gives a SPIFFE id only for exactly one URI SAN; everything else fails closed."""
    if len(spiffe_ids) != 1:
        raise NotIdentified(reason="it has no single URI name")
    try:
        identity = Identity.parse(spiffe_ids[0].decode())
    except (InvalidName, UnicodeDecodeError) as error:
        raise NotIdentified(reason="its URI name is none of ours") from error
    if identity.cluster_id != cluster_id:
        raise NotIdentified(reason="it is of another cluster")
    if identity.kind is IdentityKind.DAEMON:
        raise NotIdentified(reason="the daemon calls nobody")
    return identity


@lru_cache(maxsize=4096)
def _serial_and_end(certificate_pem: bytes) -> tuple[str, datetime]:
    try:
        return serial_and_end(certificate_pem)
    except ValueError as error:
        raise NotIdentified(reason="it cannot be read") from error


def peer_address(peer: str) -> str:
    """The IP address in gRPC's peer text: `ipv4:127.0.0.1:80`, `ipv6:%5B::1%5D:80`, `unix:`."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return peer
    return rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]")
