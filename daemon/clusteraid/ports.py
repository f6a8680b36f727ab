"""What enrolment, access and the authorities need of the store and of the rest of the daemon: values and protocols.

Times are Unix seconds. A store method returns only after its change is on disk.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol


class Role(Enum):
    """What a caller may do; the access table maps each method to the roles that may call it."""

    NODE = "node"
    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"
    STRANGER = "stranger"  # calls the enrolment port and has no certificate yet


@dataclass(frozen=True)
class TokenRecord:
    """A join token as the store keeps it: never the secret, only its hash."""

    token_id: str
    secret_hash: bytes
    role: Role
    bound_name: str  # node id or operator name; empty: any free name
    created_at: float
    expires_at: float
    use_limit: int
    created_by: str
    use_count: int = 0
    revoked: bool = False


@dataclass(frozen=True)
class CertificateRecord:
    """A leaf that an authority issued. `identity` is its URI SAN, `serial` lower-case hex."""

    serial: str
    identity: str
    not_after: float


@dataclass(frozen=True)
class OperatorRecord:
    """A person with an operator certificate."""

    name: str
    role: Role
    created_at: float
    certificate_not_after: float


@dataclass(frozen=True)
class Enrolment:
    """A new node (role NODE) or operator (any other role), with the certificate it is about to get.

    Without a token id a person approved it. `replace` allows taking over an existing name; the certificates that the
    name had are then revoked in the same transaction. `facts` is a serialised NodeFacts, empty for operators.
    """

    name: str
    role: Role
    certificate: CertificateRecord
    at: float
    token_id: str = ""
    replace: bool = False
    facts: bytes = b""


class EnrolmentOutcome(Enum):
    """What the store made of an enrolment. Only DONE changed anything."""

    DONE = auto()
    TOKEN_SPENT = auto()
    NAME_TAKEN = auto()


class TokenStore(Protocol):
    """Join tokens and what they are used for."""

    async def create_token(self, record: TokenRecord) -> None:
        """Keep a new token."""

    async def find_token(self, token_id: str) -> TokenRecord | None:
        """Return the token, spent, revoked or expired ones too (until they are a week past their expiry)."""

    async def list_tokens(self) -> tuple[TokenRecord, ...]:
        """Return all tokens, newest first."""

    async def revoke_token(self, token_id: str) -> bool:
        """Mark the token revoked; false when there is none."""

    async def is_taken(self, name: str, role: Role) -> bool:
        """Whether a node (role NODE) or an operator (any other role) of that name exists."""

    async def enroll(self, enrolment: Enrolment) -> EnrolmentOutcome:
        """In one transaction: count one use of the token, create the node or operator, record the certificate.

        TOKEN_SPENT when the token is revoked, expired at `at`, or used up; NAME_TAKEN when a node (or, for operator
        roles, an operator) of that name exists and `replace` is false. With `replace`, revokes the identity's former
        certificates and keeps the rest of the record (a drained node stays drained).
        """


class CertificateStore(Protocol):
    """Issued certificates, and which of them are refused."""

    async def record_certificate(self, record: CertificateRecord) -> None:
        """Keep a renewed certificate; for an operator also as the end of the operator's certificate."""

    async def revoke_identity(self, identity: str) -> None:
        """Mark every certificate of the identity revoked."""

    async def revoked_serials(self, at: float) -> frozenset[str]:
        """Return the serials of revoked certificates that have not expired at that time."""


class OperatorStore(Protocol):
    """People with operator certificates."""

    async def list_operators(self) -> tuple[OperatorRecord, ...]:
        """Return all operators by name."""

    async def remove_operator(self, name: str) -> bool:
        """Forget the operator; false when there is none."""


class EventLog(Protocol):
    """Where things that a person may want to see later are noted."""

    def note(self, kind: str, subject: str, message: str) -> None:
        """Note an event: a stable kind (`token-used`), what it is about, and a sentence. Never waits, never fails."""
