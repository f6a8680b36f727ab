"""Letting a machine or a person in: what a token allows, whether the name is free, whether the clocks agree."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from clusterai.errors import BadRequest, ClusterAIError, Status
from clusterai.ids import Identity, IdentityKind, parse_node_id, parse_operator_name
from clusterai.pki import Issued
from clusteraid.attempts import Attempts
from clusteraid.authority import Authority, certificate_record
from clusteraid.join_tokens import JoinTokens, TokenExpired, TokenRefused, TokenRevoked, token_used
from clusteraid.ports import Enrolment, EnrolmentOutcome, EventLog, Role, TokenRecord, TokenStore
from clusteraid.revocation import Revocations
from clusteraid.uninterrupted import uninterrupted

_CLOCK_TOLERANCE_SECONDS = 3600.0
_FACTS_LIMIT = 1 << 16


class NameTaken(ClusterAIError):
    code, status = "name-taken", Status.CONFLICT
    message = "there is a {kind} named {name} already"
    hint = "{fix}"


class NameMissing(ClusterAIError):
    code, status = "name-missing", Status.USAGE
    message = "join token {token_id} is for any name, and none was asked for"
    hint = "join with `--name NAME`"


class OtherName(ClusterAIError):
    code, status = "other-name", Status.DENIED
    message = "join token {token_id} is for {bound_name}, not for {name}"
    hint = "join with `--name {bound_name}`, or create a token for {name}: `clusteractl token create --name {name}`"


class OtherPurpose(ClusterAIError):
    code, status = "other-purpose", Status.DENIED
    message = "join token {token_id} is for {a_role}, not for {asked}; it was not used"
    hint = "{fix}"


class ClockSkewed(ClusterAIError):
    code, status = "clock-skewed", Status.FAILED
    message = "the clocks differ too much: here, on the server, it is {here}; on your machine it is {there}"
    hint = "set the clock that is wrong (`timedatectl` shows it; a phone's is in Android's settings), then join again"


@dataclass(frozen=True)
class Admission:
    """Who wants in: a name, a certificate request, for nodes the serialised facts. Nothing here is checked yet.

    `wants_node` tells a machine from a person, where that is known.
    """

    name: str
    csr_der: bytes
    facts: bytes
    clock: float
    address: str
    suggested_name: str = ""  # for a node that asks for no name with a token that is for any
    wants_node: bool | None = None


@dataclass(frozen=True)
class Grant:
    """What an admitted machine or person gets."""

    identity: Identity
    issued: Issued
    enrolment: Enrolment


class Enrollment:
    """Admits nodes and operators. One transaction of the store decides; what was answered is on disk."""

    def __init__(
        self,
        store: TokenStore,
        tokens: JoinTokens,
        authority: Authority,
        revocations: Revocations,
        attempts: Attempts,
        events: EventLog,
        clock: Callable[[], float],
    ) -> None:
        self._store, self._tokens, self._authority, self._revocations = store, tokens, authority, revocations
        self._attempts, self._events, self._clock = attempts, events, clock
        self._listeners: list[Callable[[Enrolment], None]] = []

    def on_enrolled(self, listener: Callable[[Enrolment], None]) -> None:
        """Call the listener after each enrolment, before its answer is sent."""
        self._listeners.append(listener)

    async def enroll(self, token_id: str, secret: str, admission: Admission) -> Grant:
        """Admit with a token.

        Raises:
            TooManyAttempts: this address was refused too often.
            TokenRefused, TokenRevoked, TokenExpired, TokenUsed: the token does not admit.
            OtherPurpose: a machine came with a person's token, or a person with a machine's.
            NameMissing, OtherName, InvalidName, NameTaken: the name is the problem.
            ClockSkewed: the clocks differ by more than an hour.
            BadRequest: the certificate request or the facts are not usable.
        """
        self._attempts.check(admission.address)
        try:
            token = await self._tokens.check(token_id, secret)
        except (TokenRefused, TokenRevoked, TokenExpired) as error:
            self._attempts.count(admission.address)
            self._events.note("join-refused", admission.address, str(error))
            raise
        _check_purpose(token, admission)
        name = _name(token, admission)
        self.check_clock(admission.clock)
        grant = await self._admit(name, token.role, admission, token)
        self._events.note("token-used", token_id, f"{token.role.value} {name} joined from {admission.address}")
        return grant

    async def approve(self, name: str, admission: Admission) -> Grant:
        """Admit a node that a person approved."""
        return await self._admit(name, Role.NODE, admission, None)

    async def check_free(self, name: str) -> None:
        """Raise NameTaken when there is a node of that name."""
        if await self._store.is_taken(name, Role.NODE):
            raise _name_taken(name, Role.NODE)

    def check_clock(self, clock: float) -> None:
        """Raise ClockSkewed when the other machine's clock, in Unix seconds, is more than an hour off."""
        if not math.isfinite(clock) or not 0 <= clock < 1 << 37:
            raise BadRequest(what="clock", reason="not a time")
        if abs(clock - self._clock()) > _CLOCK_TOLERANCE_SECONDS:
            raise ClockSkewed(here=_shown(self._clock()), there=_shown(clock))

    async def _admit(self, name: str, role: Role, admission: Admission, token: TokenRecord | None) -> Grant:
        if len(admission.facts) > _FACTS_LIMIT:
            raise BadRequest(what="facts", reason=f"longer than {_FACTS_LIMIT} bytes")
        identity = self._authority.identity(IdentityKind.NODE if role is Role.NODE else IdentityKind.OPERATOR, name)
        issued = self._authority.issue(admission.csr_der, identity)
        enrolment = Enrolment(
            name, role, certificate_record(issued, identity), self._clock(),
            token_id=token.token_id if token else "", replace=bool(token and token.bound_name),
            facts=admission.facts if role is Role.NODE else b"",
        )
        await uninterrupted(self._write(enrolment, identity, token))
        return Grant(identity, issued, enrolment)

    async def _write(self, enrolment: Enrolment, identity: Identity, token: TokenRecord | None) -> None:
        """Let the store decide, take over what it revoked when a name was enrolled again, and tell who listens."""
        async with self._revocations.changing:
            outcome = await self._store.enroll(enrolment)
            if outcome is EnrolmentOutcome.DONE and enrolment.replace:
                await self._revocations.revoked_elsewhere(identity)
        if outcome is EnrolmentOutcome.NAME_TAKEN:
            raise _name_taken(enrolment.name, enrolment.role)
        if outcome is EnrolmentOutcome.TOKEN_SPENT and token is not None:
            raise token_used(token)
        for listener in self._listeners:
            listener(enrolment)


def _check_purpose(token: TokenRecord, admission: Admission) -> None:
    """A person's login with a machine's token would make a node that never comes, and the other way round."""
    is_node = token.role is Role.NODE
    if admission.wants_node is None or admission.wants_node == is_node:
        return
    if is_node:
        fix = "for a login: `clusteractl token create --role operator --name NAME`"
        raise OtherPurpose(token_id=token.token_id, a_role="a machine", asked="a person", fix=fix)
    fix = "for a machine: `clusteractl token create`; with this one: `clusteractl login --server HOST`"
    raise OtherPurpose(token_id=token.token_id, a_role="a person", asked="a machine", fix=fix)


def _name(token: TokenRecord, admission: Admission) -> str:
    """The name that the token and the request agree on."""
    is_node = token.role is Role.NODE
    parse = parse_node_id if is_node else parse_operator_name
    asked = admission.name or token.bound_name or (admission.suggested_name if is_node else "")
    if not asked:
        raise NameMissing(token_id=token.token_id)
    name = parse(asked)
    if token.bound_name and name != token.bound_name:
        raise OtherName(token_id=token.token_id, bound_name=token.bound_name, name=name)
    return name


def _name_taken(name: str, role: Role) -> NameTaken:
    if role is Role.NODE:
        gone = f"if it is gone, run `clusteractl node remove {name}` first"
        fix = f"join with `--name OTHER`; {gone}; a token for {name} (`clusteractl token create --name`) re-enrols it"
        return NameTaken(kind="node", name=name, fix=fix)
    return NameTaken(kind="operator", name=name, fix="use another name, or a token that is bound to this one")


def _shown(clock: float) -> str:
    return f"{datetime.fromtimestamp(clock, UTC):%F %T} UTC"
