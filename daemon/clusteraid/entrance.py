"""Everything that decides who comes in, put together."""

import time
from dataclasses import dataclass

from clusteraid.access import Access
from clusteraid.approvals import Approvals
from clusteraid.attempts import Attempts
from clusteraid.authority import Authority, DaemonCertificate, Renewals
from clusteraid.enrollment import Enrollment
from clusteraid.events import Events
from clusteraid.join_tokens import JoinTokens
from clusteraid.operators import Operators
from clusteraid.revocation import Revocations
from clusteraid.store_access import AccessStore


@dataclass(frozen=True)
class Entrance:
    """The parts that know tokens, certificates, operators and roles."""

    revocations: Revocations
    operators: Operators
    tokens: JoinTokens
    enrollment: Enrollment
    approvals: Approvals
    renewals: Renewals
    certificate: DaemonCertificate
    access: Access


async def build_entrance(store: AccessStore, authority: Authority, events: Events) -> Entrance:
    """Return the parts, with what the store knows loaded."""
    revocations = Revocations(store, time.time)
    await revocations.load()
    operators = Operators(store, authority, revocations, events)
    await operators.load()
    attempts = Attempts(time.monotonic)
    tokens = JoinTokens(store, events, authority.ca_sha256, time.time)
    enrollment = Enrollment(store, tokens, authority, revocations, attempts, events, time.time)
    enrollment.on_enrolled(operators.operator_enrolled)
    access = Access(authority.cluster_id, revocations.is_revoked, operators.role_of)
    revocations.on_revoked(access.streams.identity_revoked)
    return Entrance(
        revocations, operators, tokens, enrollment,
        Approvals(enrollment, attempts, events, authority.ca_sha256, time.time),
        Renewals(authority, store, revocations),
        DaemonCertificate(authority),
        access,
    )
