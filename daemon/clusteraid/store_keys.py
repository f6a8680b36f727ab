"""What the store knows of the gateway's keys. One function is one transaction."""

import json
import sqlite3
from dataclasses import dataclass
from typing import Any

from clusteraid.store import Store

_COLUMNS = (
    "key_id, name, secret_hash, models, created_at, created_by, expires_at, requests_per_minute, dashboard, revoked"
)
_KEPT_AFTER_EXPIRY = 30 * 86400.0


@dataclass(frozen=True)
class KeyRecord:
    """A key as the store keeps it: never the secret, only the hash of the whole key. Times are Unix seconds."""

    key_id: str
    name: str
    secret_hash: bytes
    models: tuple[str, ...]  # normalised; empty: all
    created_at: float
    created_by: str
    expires_at: float = 0.0  # 0: never
    requests_per_minute: int = 0  # 0: unlimited
    dashboard: bool = False
    revoked: bool = False

    def is_expired(self, now: float) -> bool:
        """Whether its time is over."""
        return bool(self.expires_at) and now >= self.expires_at


class KeyStore:
    """Keys in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def create(self, record: KeyRecord) -> None:
        """Keep a new key, and forget those that expired a month ago."""

        def work(db: sqlite3.Connection) -> None:
            oldest = record.created_at - _KEPT_AFTER_EXPIRY
            db.execute("DELETE FROM api_key WHERE expires_at > 0 AND expires_at < ?", (oldest,))
            db.execute(f"INSERT INTO api_key ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", _row(record))  # noqa: S608

        await self._store.write(work)

    async def list(self) -> tuple[KeyRecord, ...]:
        """Return all keys, newest first."""
        query = f"SELECT {_COLUMNS} FROM api_key ORDER BY created_at DESC, key_id"  # noqa: S608
        return tuple(map(_record, await self._store.read(lambda db: db.execute(query).fetchall())))

    async def revoke(self, key_id: str) -> None:
        """Mark the key revoked."""
        await self._store.write(lambda db: db.execute("UPDATE api_key SET revoked = 1 WHERE key_id = ?", (key_id,)))

    async def forget(self, key_id: str) -> None:
        """Take back a key that nobody was given."""
        await self._store.write(lambda db: db.execute("DELETE FROM api_key WHERE key_id = ?", (key_id,)))


def _row(record: KeyRecord) -> tuple[Any, ...]:
    return (
        record.key_id, record.name, record.secret_hash, json.dumps(record.models), record.created_at, record.created_by,
        record.expires_at, record.requests_per_minute, record.dashboard, record.revoked,
    )


def _record(row: tuple[Any, ...]) -> KeyRecord:
    key_id, name, secret_hash, models, created_at, created_by, expires_at, per_minute, dashboard, revoked = row
    return KeyRecord(
        key_id, name, secret_hash, tuple(json.loads(models)), created_at, created_by, expires_at, per_minute,
        bool(dashboard), bool(revoked),
    )
