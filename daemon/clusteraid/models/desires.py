"""What shall be where: kept in memory as in the store, which has each change first."""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from clusteraid.models.inventory import Desires, Wanted
from clusteraid.store_models import ModelRecord, ModelStore
from clusteraid.uninterrupted import uninterrupted

Chooser = Callable[[Wanted, str], frozenset[str]]  # who takes the place of a node that is no more


class DesiredModels:
    """The wanted models. A change that returned is on disk; one whose caller went away is whole or was never made."""

    def __init__(self, store: ModelStore, clock: Callable[[], float] = time.time) -> None:
        self._store, self._clock = store, clock
        self._wanted: dict[str, Wanted] = {}
        self._changing = asyncio.Lock()

    @property
    def all(self) -> Desires:
        """All of them by name; those that are only to be removed have no present node."""
        return self._wanted

    def find(self, name: str) -> Wanted:
        """Return what is wanted of the model: nothing, if nobody named it."""
        return self._wanted.get(name) or Wanted(name)

    async def load(self) -> None:
        """Read the store; once at start."""
        models, placements = await self._store.load()
        for record in models:
            self._wanted[record.model] = Wanted(
                record.model, record.digest, limit_bytes_per_second=record.limit_bytes_per_second,
                chosen_count=record.chosen_count,
            )
        for placement in placements:
            wanted = self.find(placement.model)
            side = getattr(wanted, placement.desired) | {placement.node_id}
            self._wanted[placement.model] = replace(wanted, **{placement.desired: side})

    async def place(self, name: str, node_ids: Iterable[str], by: str, *, limit: int = 0, chosen: int = 0) -> None:
        """Want the model on these nodes too; `chosen`: on how many that the daemon chose, 0 if they were named."""
        await uninterrupted(self._place(name, frozenset(node_ids), by, limit, chosen))

    async def _place(self, name: str, node_ids: frozenset[str], by: str, limit: int, chosen: int) -> None:
        async with self._changing:
            record = ModelRecord(name, self._clock(), by, b"", limit, chosen)
            await self._store.place(record, node_ids)
            wanted = self.find(name)
            self._wanted[name] = replace(
                wanted, present=wanted.present | node_ids, absent=wanted.absent - node_ids,
                limit_bytes_per_second=limit, chosen_count=chosen,
            )

    async def unplace(self, name: str, absent: Iterable[str], forgotten: Iterable[str] = ()) -> None:
        """Want the model gone from the `absent` nodes; what is known not to have it is only forgotten."""
        await uninterrupted(self._unplace(name, frozenset(absent), frozenset(forgotten)))

    async def _unplace(self, name: str, absent: frozenset[str], forgotten: frozenset[str]) -> None:
        async with self._changing:
            await self._store.unplace(name, absent, forgotten)
            wanted = self.find(name)
            self._keep(
                replace(
                    wanted, present=wanted.present - absent - forgotten, absent=(wanted.absent | absent) - forgotten
                )
            )

    async def fix(self, name: str, digest: bytes) -> None:
        """Fix which content the name stands for."""
        await uninterrupted(self._fix(name, digest))

    async def _fix(self, name: str, digest: bytes) -> None:
        async with self._changing:
            await self._store.set_digest(name, digest)
            if name in self._wanted:
                self._wanted[name] = replace(self._wanted[name], digest=digest)

    async def gone(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Forget what was to be removed and is: pairs of model and node."""
        await uninterrupted(self._gone(tuple(pairs)))

    async def _gone(self, pairs: tuple[tuple[str, str], ...]) -> None:
        async with self._changing:
            await self._store.removed(pairs)
            for name, node_id in pairs:
                wanted = self.find(name)
                self._keep(replace(wanted, absent=wanted.absent - {node_id}))

    async def forget_node(self, node_id: str, choose: Chooser) -> tuple[tuple[Wanted, frozenset[str]], ...]:
        """Forget all placements of a node that is no more, and have others take its place, in one change.

        Return the models that it should have had, as they were wanted before, each with the nodes chosen for it.
        """
        return await uninterrupted(self._forget_node(node_id, choose))

    async def _forget_node(self, node_id: str, choose: Chooser) -> tuple[tuple[Wanted, frozenset[str]], ...]:
        async with self._changing:
            lost = {one.name: (one, choose(one, node_id)) for one in self._wanted.values() if node_id in one.present}
            moved = {name: others for name, (_, others) in lost.items()}
            await self._store.remove_node(node_id, [(name, other) for name in moved for other in moved[name]])
            for wanted in tuple(self._wanted.values()):
                others = moved.get(wanted.name, frozenset())
                self._keep(
                    replace(
                        wanted, present=(wanted.present - {node_id}) | others,
                        absent=wanted.absent - {node_id} - others,
                    )
                )
            return tuple(lost.values())

    def _keep(self, wanted: Wanted) -> None:
        """Take it over; what nobody wants anywhere is forgotten, with its digest."""
        if wanted.present or wanted.absent:
            digest = wanted.digest if wanted.present else b""
            self._wanted[wanted.name] = replace(wanted, digest=digest)
        else:
            self._wanted.pop(wanted.name, None)
