"""What the store knows of nodes and of what happened. One function is one transaction."""

import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clusterai.ids import ClusterId, Identity, IdentityKind, NodeId
from clusteraid.store import Store

EVENTS_KEPT = 5000


@dataclass(frozen=True)
class NodeRecord:
    """A node as the store keeps it. `desired` is active, draining or drained; times are Unix seconds."""

    node_id: NodeId
    created_at: float
    facts: bytes  # a serialised NodeFacts
    desired: str = "active"
    drain_deadline: float = 0.0
    admitted_by: str = ""
    certificate_not_after: float = 0.0


@dataclass(frozen=True)
class EventRecord:
    """Something that happened."""

    sequence: int
    time: float
    kind: str
    subject: str
    message: str


class NodeStore:
    """Nodes and events in the store."""

    def __init__(self, store: Store, cluster_id: ClusterId) -> None:
        self._store, self._cluster_id = store, cluster_id

    async def list_nodes(self) -> tuple[NodeRecord, ...]:
        """Return all nodes by name, each with the end of its newest certificate."""
        prefix = str(Identity(self._cluster_id, IdentityKind.NODE, ""))

        def work(db: sqlite3.Connection) -> list[tuple[object, ...]]:
            return db.execute(
                "SELECT node_id, created_at, facts, desired, drain_deadline, admitted_by,"
                " coalesce((SELECT max(not_after) FROM certificate"
                "  WHERE identity = ? || '/' || node_id AND NOT revoked), 0)"
                " FROM node ORDER BY node_id",
                (prefix,),
            ).fetchall()

        return tuple(NodeRecord(*row) for row in await self._store.read(work))  # type: ignore[arg-type]

    async def save_facts(self, facts: Mapping[NodeId, bytes]) -> None:
        """Keep what nodes said about themselves."""
        rows = [(value, node_id) for node_id, value in facts.items()]
        await self._store.write(lambda db: db.executemany("UPDATE node SET facts = ? WHERE node_id = ?", rows) and None)

    async def set_desired(self, node_id: NodeId, desired: str, drain_deadline: float = 0.0) -> None:
        """Keep whether the node shall compute: active, draining or drained."""
        query = "UPDATE node SET desired = ?, drain_deadline = ? WHERE node_id = ?"
        await self._store.write(lambda db: db.execute(query, (desired, drain_deadline, node_id)) and None)

    async def remove_node(self, node_id: NodeId) -> None:
        """Forget the node and refuse its certificates."""
        identity = str(Identity(self._cluster_id, IdentityKind.NODE, node_id))

        def work(db: sqlite3.Connection) -> None:
            db.execute("UPDATE certificate SET revoked = 1 WHERE identity = ?", (identity,))
            db.execute("DELETE FROM node WHERE node_id = ?", (node_id,))
            db.execute("DELETE FROM policy WHERE node_id = ?", (node_id,))

        await self._store.write(work)

    async def begin_era(self) -> int:
        """Return a number that grows with every start of the daemon: sessions and specs are counted from it."""
        query = (
            "INSERT INTO meta VALUES ('era', ?) ON CONFLICT (key) DO UPDATE SET value = max(value + 1, excluded.value)"
            " RETURNING value"
        )
        now = int(time.time())
        rows: list[tuple[int]] = await self._store.write(lambda db: db.execute(query, (now,)).fetchall())
        return rows[0][0]

    async def load_events(self) -> tuple[EventRecord, ...]:
        """Return the events that are kept, oldest first."""
        query = "SELECT sequence, time, kind, subject, message FROM event ORDER BY sequence DESC LIMIT ?"
        rows = await self._store.read(lambda db: db.execute(query, (EVENTS_KEPT,)).fetchall())
        return tuple(EventRecord(*row) for row in reversed(rows))

    async def save_events(self, events: Sequence[EventRecord]) -> None:
        """Keep the events, and forget the oldest beyond the limit."""
        rows = [(event.sequence, event.time, event.kind, event.subject, event.message) for event in events]

        def work(db: sqlite3.Connection) -> None:
            db.executemany("INSERT OR IGNORE INTO event VALUES (?, ?, ?, ?, ?)", rows)
            db.execute("DELETE FROM event WHERE sequence <= ?", (rows[-1][0] - EVENTS_KEPT,))

        if rows:
            await self._store.write(work)
