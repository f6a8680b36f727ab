"""People with operator certificates and their roles."""

from clusterai.errors import ClusterAIError, Status
from clusterai.ids import IdentityKind, parse_operator_name
from clusteraid.authority import Authority
from clusteraid.ports import Enrolment, EventLog, OperatorRecord, OperatorStore, Role
from clusteraid.revocation import Revocations
from clusteraid.uninterrupted import uninterrupted


class NoSuchOperator(ClusterAIError):
    code, status = "no-such-operator", Status.NOT_FOUND
    message = "there is no operator {name}"
    hint = "see `clusteractl operator list`"


class Operators:
    """The operators' roles, in memory for every call; the store has the rest."""

    def __init__(
        self, store: OperatorStore, authority: Authority, revocations: Revocations, events: EventLog
    ) -> None:
        self._store, self._authority, self._revocations, self._events = store, authority, revocations, events
        self._roles: dict[str, Role] = {}

    async def load(self) -> None:
        """Read the roles; once at start, before anything is served."""
        self._roles = {record.name: record.role for record in await self._store.list_operators()}

    def role_of(self, name: str) -> Role | None:
        """The operator's role; None when there is no such operator."""
        return self._roles.get(name)

    def operator_enrolled(self, enrolment: Enrolment) -> None:
        """Listen to enrolments: a new operator may call at once."""
        if enrolment.role is not Role.NODE:
            self._roles[enrolment.name] = enrolment.role

    async def list(self) -> tuple[OperatorRecord, ...]:
        """Return all operators by name."""
        return await self._store.list_operators()

    async def revoke(self, name: str) -> None:
        """Forget the operator, refuse its certificates and close what it has open."""
        await uninterrupted(self._remove(parse_operator_name(name)))
        self._events.note("operator-revoked", name, f"operator {name} was revoked")

    async def _remove(self, name: str) -> None:
        if not await self._store.remove_operator(name):
            raise NoSuchOperator(name=name)
        self._roles.pop(name, None)
        await self._revocations.revoke(self._authority.identity(IdentityKind.OPERATOR, name))
