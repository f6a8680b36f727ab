"""What the store knows of models: which are wanted, with which digest, and where. One function is one transaction."""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from clusteraid.store import Store


@dataclass(frozen=True)
class ModelRecord:
    """A wanted model. `digest` is empty until the first node has it; `chosen_count` 0: somebody named its nodes."""

    model: str
    created_at: float
    created_by: str
    digest: bytes = b""
    limit_bytes_per_second: int = 0
    chosen_count: int = 0


@dataclass(frozen=True)
class PlacementRecord:
    """Whether a node shall have a model. `absent` stands until the node has reported that it is gone."""

    model: str
    node_id: str
    desired: str  # present or absent


class ModelStore:
    """Wanted models and their placements in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def load(self) -> tuple[tuple[ModelRecord, ...], tuple[PlacementRecord, ...]]:
        """Return everything, by name."""

        def work(db: sqlite3.Connection) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
            models = db.execute(
                "SELECT model, created_at, created_by, digest, limit_bytes_per_second, chosen_count"
                " FROM model ORDER BY model"
            ).fetchall()
            return models, db.execute("SELECT model, node_id, desired FROM placement ORDER BY 1, 2").fetchall()

        models, placements = await self._store.read(work)
        return (
            tuple(ModelRecord(*row) for row in models),  # type: ignore[arg-type]
            tuple(PlacementRecord(*row) for row in placements),  # type: ignore[arg-type]
        )

    async def place(self, record: ModelRecord, node_ids: Iterable[str]) -> None:
        """Want the model on these nodes too; one that is wanted already keeps its digest and who wanted it first."""
        values = (
            record.model, record.digest, record.created_at, record.created_by, record.limit_bytes_per_second,
            record.chosen_count,
        )
        rows = [(record.model, node_id) for node_id in node_ids]

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "INSERT INTO model (model, digest, created_at, created_by, limit_bytes_per_second, chosen_count)"
                " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (model) DO UPDATE SET"
                " limit_bytes_per_second = excluded.limit_bytes_per_second, chosen_count = excluded.chosen_count",
                values,
            )
            db.executemany("INSERT OR REPLACE INTO placement VALUES (?, ?, 'present')", rows)

        await self._store.write(work)

    async def unplace(self, model: str, absent: Iterable[str], forgotten: Iterable[str]) -> None:
        """Want the model gone from the `absent` nodes; of the forgotten ones nothing is known to be left to remove."""
        absent_rows = [(model, node_id) for node_id in absent]
        forgotten_rows = [(model, node_id) for node_id in forgotten]

        def work(db: sqlite3.Connection) -> None:
            db.executemany("INSERT OR REPLACE INTO placement VALUES (?, ?, 'absent')", absent_rows)
            db.executemany("DELETE FROM placement WHERE model = ? AND node_id = ?", forgotten_rows)
            _forget_unwanted(db)

        await self._store.write(work)

    async def set_digest(self, model: str, digest: bytes) -> None:
        """Fix which content the model's name stands for."""
        query = "UPDATE model SET digest = ? WHERE model = ?"
        await self._store.write(lambda db: db.execute(query, (digest, model)) and None)

    async def removed(self, gone: Iterable[tuple[str, str]]) -> None:
        """Forget what was to be removed and is: pairs of model and node."""
        rows = list(gone)
        query = "DELETE FROM placement WHERE model = ? AND node_id = ? AND desired = 'absent'"
        await self._store.write(lambda db: db.executemany(query, rows) and None)

    async def remove_node(self, node_id: str, moved: Iterable[tuple[str, str]]) -> None:
        """Forget all placements of a node that is no more; pairs of model and node take their place."""
        rows = list(moved)

        def work(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM placement WHERE node_id = ?", (node_id,))
            db.executemany("INSERT OR REPLACE INTO placement VALUES (?, ?, 'present')", rows)
            _forget_unwanted(db)

        await self._store.write(work)


def _forget_unwanted(db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM model WHERE model NOT IN (SELECT model FROM placement WHERE desired = 'present')")
