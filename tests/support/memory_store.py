"""The store of enrolment in memory: what `clusteraid.store` keeps in SQLite. One contract suite runs on both."""

from dataclasses import replace

from clusteraid.ports import (
    CertificateRecord,
    Enrolment,
    EnrolmentOutcome,
    OperatorRecord,
    Role,
    TokenRecord,
)


class MemoryStore:
    """Tokens, certificates, operators and names."""

    def __init__(self) -> None:
        self.tokens: dict[str, TokenRecord] = {}
        self.nodes: dict[str, Enrolment] = {}
        self.operators: dict[str, OperatorRecord] = {}
        self.certificates: dict[str, CertificateRecord] = {}
        self.revoked: set[str] = set()

    async def create_token(self, record: TokenRecord) -> None:
        self.tokens[record.token_id] = record

    async def find_token(self, token_id: str) -> TokenRecord | None:
        return self.tokens.get(token_id)

    async def list_tokens(self) -> tuple[TokenRecord, ...]:
        return tuple(sorted(self.tokens.values(), key=lambda token: -token.created_at))

    async def revoke_token(self, token_id: str) -> bool:
        if token_id in self.tokens:
            self.tokens[token_id] = replace(self.tokens[token_id], revoked=True)
        return token_id in self.tokens

    async def is_taken(self, name: str, role: Role) -> bool:
        return name in (self.nodes if role is Role.NODE else self.operators)

    async def enroll(self, enrolment: Enrolment) -> EnrolmentOutcome:
        if enrolment.token_id and not self._usable(self.tokens[enrolment.token_id], enrolment.at):
            return EnrolmentOutcome.TOKEN_SPENT
        if not enrolment.replace and await self.is_taken(enrolment.name, enrolment.role):
            return EnrolmentOutcome.NAME_TAKEN
        if enrolment.token_id:
            token = self.tokens[enrolment.token_id]
            self.tokens[enrolment.token_id] = replace(token, use_count=token.use_count + 1)
        await self.revoke_identity(enrolment.certificate.identity)
        self.certificates[enrolment.certificate.serial] = enrolment.certificate
        self._keep(enrolment)
        return EnrolmentOutcome.DONE

    async def record_certificate(self, record: CertificateRecord) -> None:
        self.certificates[record.serial] = record

    async def revoke_identity(self, identity: str) -> None:
        self.revoked |= {record.serial for record in self.certificates.values() if record.identity == identity}

    async def revoked_serials(self, at: float) -> frozenset[str]:
        return frozenset(serial for serial in self.revoked if self.certificates[serial].not_after > at)

    async def list_operators(self) -> tuple[OperatorRecord, ...]:
        return tuple(sorted(self.operators.values(), key=lambda operator: operator.name))

    async def remove_operator(self, name: str) -> bool:
        return self.operators.pop(name, None) is not None

    def _keep(self, enrolment: Enrolment) -> None:
        if enrolment.role is Role.NODE:
            self.nodes[enrolment.name] = enrolment
            return
        expiry = enrolment.certificate.not_after
        self.operators[enrolment.name] = OperatorRecord(enrolment.name, enrolment.role, enrolment.at, expiry)

    @staticmethod
    def _usable(token: TokenRecord, at: float) -> bool:
        return not token.revoked and at < token.expires_at and token.use_count < token.use_limit
