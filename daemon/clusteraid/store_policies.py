"""What the store knows of policies. One function is one transaction."""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from clusterai.policy import MachineClass
from clusteraid.store import Store


@dataclass(frozen=True)
class Scope:
    """Whose policy: a node's, or that of all nodes of a class."""

    node_id: str = ""
    machine: MachineClass | None = None

    @property
    def key(self) -> tuple[str, str]:
        """How the store names it."""
        return self.node_id, self.machine.value if self.machine else ""


class PolicyStore:
    """What was set, as it was written."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def load(self) -> dict[Scope, dict[str, str]]:
        """Return all that was set; a class that a newer version added is left out."""
        query = "SELECT node_id, machine_class, key, value FROM policy"
        classes = {machine.value: machine for machine in MachineClass}
        found: dict[Scope, dict[str, str]] = {}
        for node_id, name, key, value in await self._store.read(lambda db: db.execute(query).fetchall()):
            if node_id or name in classes:
                found.setdefault(Scope(node_id, classes.get(name)), {})[key] = value
        return found

    async def replace(self, scope: Scope, values: Mapping[str, str]) -> None:
        """Keep exactly these values for the node or the class."""
        rows = [(*scope.key, key, value) for key, value in values.items()]

        def work(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM policy WHERE node_id = ? AND machine_class = ?", scope.key)
            db.executemany("INSERT INTO policy VALUES (?, ?, ?, ?)", rows)

        await self._store.write(work)
