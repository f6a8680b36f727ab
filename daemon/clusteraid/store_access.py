"""What the store knows of who may come in: join tokens, certificates, operators. One function is one transaction."""

import sqlite3
from typing import Any

from clusterai.ids import ClusterId, Identity, IdentityKind
from clusteraid.ports import (
    CertificateRecord,
    Enrolment,
    EnrolmentOutcome,
    OperatorRecord,
    Role,
    TokenRecord,
)
from clusteraid.store import Store

_KEPT_AFTER_EXPIRY = 7 * 86400.0


class AccessStore:
    """Tokens, certificates and operators in the store; the protocols of `ports`."""

    def __init__(self, store: Store, cluster_id: ClusterId) -> None:
        self._store, self._cluster_id = store, cluster_id

    async def create_token(self, record: TokenRecord) -> None:
        """Keep a new token, and forget those that are a week past their expiry."""

        def work(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM token WHERE expires_at < ?", (record.created_at - _KEPT_AFTER_EXPIRY,))
            values = (
                record.token_id, record.secret_hash, record.role.value, record.bound_name, record.created_at,
                record.expires_at, record.use_limit, record.created_by, record.use_count, record.revoked,
            )
            db.execute("INSERT INTO token VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

        await self._store.write(work)

    async def find_token(self, token_id: str) -> TokenRecord | None:
        """Return the token, usable or not."""
        found = await self._store.read(
            lambda db: db.execute("SELECT * FROM token WHERE token_id = ?", (token_id,)).fetchone()
        )
        return None if found is None else _token(found)

    async def list_tokens(self) -> tuple[TokenRecord, ...]:
        """Return all tokens, newest first."""
        query = "SELECT * FROM token ORDER BY created_at DESC, token_id"
        return tuple(map(_token, await self._store.read(lambda db: db.execute(query).fetchall())))

    async def revoke_token(self, token_id: str) -> bool:
        """Mark the token revoked; false when there is none."""
        query = "UPDATE token SET revoked = 1 WHERE token_id = ?"
        return bool(await self._store.write(lambda db: db.execute(query, (token_id,)).rowcount))

    async def is_taken(self, name: str, role: Role) -> bool:
        """Whether a node, or an operator for the other roles, of that name exists."""
        return await self._store.read(lambda db: _exists(db, name, role))

    async def enroll(self, enrolment: Enrolment) -> EnrolmentOutcome:
        """Count one use of the token, create the node or operator, record the certificate: all or nothing."""
        return await self._store.write(lambda db: self._enroll(db, enrolment))

    async def record_certificate(self, record: CertificateRecord) -> None:
        """Keep a renewed certificate."""

        def work(db: sqlite3.Connection) -> None:
            _record(db, record)
            identity = Identity.parse(record.identity)
            if identity.kind is IdentityKind.OPERATOR:
                query = "UPDATE operator SET certificate_not_after = ? WHERE name = ?"
                db.execute(query, (record.not_after, identity.name))

        await self._store.write(work)

    async def revoke_identity(self, identity: str) -> None:
        """Mark every certificate of the identity revoked."""
        await self._store.write(lambda db: _revoke(db, identity))

    async def revoked_serials(self, at: float) -> frozenset[str]:
        """Return the serials of revoked certificates that have not expired at that time."""
        query = "SELECT serial FROM certificate WHERE revoked AND not_after >= ?"
        rows = await self._store.read(lambda db: db.execute(query, (at,)).fetchall())
        return frozenset(serial for (serial,) in rows)

    async def list_operators(self) -> tuple[OperatorRecord, ...]:
        """Return all operators by name."""
        query = "SELECT name, role, created_at, certificate_not_after FROM operator ORDER BY name"
        rows = await self._store.read(lambda db: db.execute(query).fetchall())
        return tuple(OperatorRecord(name, Role(role), created, ends) for name, role, created, ends in rows)

    async def remove_operator(self, name: str) -> bool:
        """Forget the operator and refuse its certificates; false when there is none."""
        identity = str(Identity(self._cluster_id, IdentityKind.OPERATOR, name))

        def work(db: sqlite3.Connection) -> bool:
            _revoke(db, identity)
            return bool(db.execute("DELETE FROM operator WHERE name = ?", (name,)).rowcount)

        return await self._store.write(work)

    def _enroll(self, db: sqlite3.Connection, enrolment: Enrolment) -> EnrolmentOutcome:
        created_by = "approval"
        if enrolment.token_id:
            query = (
                "UPDATE token SET use_count = use_count + 1"
                " WHERE token_id = ? AND NOT revoked AND expires_at > ? AND use_count < use_limit RETURNING created_by"
            )
            rows = db.execute(query, (enrolment.token_id, enrolment.at)).fetchall()
            if not rows:
                return EnrolmentOutcome.TOKEN_SPENT
            created_by = rows[0][0]
        if _exists(db, enrolment.name, enrolment.role):
            if not enrolment.replace:
                _take_back(db, enrolment.token_id)
                return EnrolmentOutcome.NAME_TAKEN
            _revoke(db, enrolment.certificate.identity)
        _admit(db, enrolment, created_by)
        _record(db, enrolment.certificate)
        return EnrolmentOutcome.DONE


def _token(row: tuple[Any, ...]) -> TokenRecord:
    token_id, secret_hash, role, bound_name, created_at, expires_at, use_limit, created_by, use_count, revoked = row
    return TokenRecord(
        token_id, secret_hash, Role(role), bound_name, created_at, expires_at, use_limit, created_by, use_count,
        bool(revoked),
    )


def _exists(db: sqlite3.Connection, name: str, role: Role) -> bool:
    query = "SELECT 1 FROM node WHERE node_id = ?" if role is Role.NODE else "SELECT 1 FROM operator WHERE name = ?"
    return db.execute(query, (name,)).fetchone() is not None


def _take_back(db: sqlite3.Connection, token_id: str) -> None:
    db.execute("UPDATE token SET use_count = use_count - 1 WHERE token_id = ?", (token_id,))


def _admit(db: sqlite3.Connection, enrolment: Enrolment, created_by: str) -> None:
    if enrolment.role is Role.NODE:
        query = (
            "INSERT INTO node (node_id, created_at, facts, admitted_by) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (node_id) DO UPDATE SET facts = excluded.facts, admitted_by = excluded.admitted_by"
        )
        db.execute(query, (enrolment.name, enrolment.at, enrolment.facts, created_by))
        return
    query = (
        "INSERT INTO operator (name, role, created_at, certificate_not_after) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (name) DO UPDATE SET role = excluded.role,"
        " certificate_not_after = excluded.certificate_not_after"
    )
    db.execute(query, (enrolment.name, enrolment.role.value, enrolment.at, enrolment.certificate.not_after))


def _record(db: sqlite3.Connection, record: CertificateRecord) -> None:
    """Keep the certificate; of the same identity, those that ended a week ago are forgotten."""
    query = "DELETE FROM certificate WHERE identity = ? AND not_after < ? - ?"
    db.execute(query, (record.identity, record.not_after, 5 * _KEPT_AFTER_EXPIRY))
    query = "INSERT INTO certificate (serial, identity, not_after) VALUES (?, ?, ?)"
    db.execute(query, (record.serial, record.identity, record.not_after))


def _revoke(db: sqlite3.Connection, identity: str) -> None:
    db.execute("UPDATE certificate SET revoked = 1 WHERE identity = ?", (identity,))
