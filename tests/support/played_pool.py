"""A pool whose scheduler is the test."""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from clusterai.errors import ClusterAIError
from clusterai.v1.cluster_pb2 import PoolStatus
from clusterai.v1.types_pb2 import EnvironmentSpec, EnvironmentStatus, PoolSpec
from clusteraid.dask_control import Registered
from clusteraid.pool_port import PoolPlan

PLAN = PoolPlan("main", EnvironmentSpec(environment_hash="abc", python_minor="3.11"), "")


def worker(name: str, processing: int = 0, nbytes: int = 0) -> Registered:
    return Registered(name, "tls://w", 4, 1 << 30, processing, nbytes, "running")


@dataclass
class PlayedPool:
    """What it retires waits for `gate`."""

    workers: dict[str, Registered] = field(default_factory=dict)
    retired: list[list[str]] = field(default_factory=list)
    error: ClusterAIError | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    plan: PoolPlan = PLAN
    held: frozenset[str] = frozenset()
    told: EnvironmentStatus = field(default_factory=EnvironmentStatus)
    listeners: list[Callable[[], None]] = field(default_factory=list)

    async def settled(self) -> None:
        return

    def spec(self) -> PoolSpec:
        return PoolSpec(pool_name=self.plan.name, environment=self.plan.environment)

    def status(self) -> PoolStatus:
        return PoolStatus(pool_name=self.plan.name)

    def hold(self, names: Collection[str]) -> None:
        self.held = frozenset(names)

    def environment_told(self, status: EnvironmentStatus) -> None:
        self.told = status

    def on_changed(self, listener: Callable[[], None]) -> None:
        self.listeners.append(listener)

    async def retire(self, names: Collection[str], progress: Callable[[int, int, int], None]) -> None:
        self.retired.append(sorted(names))
        progress(1, 2, 3)
        if self.error is not None:
            raise self.error
        await self.gate.wait()
        for name in names:
            del self.workers[name]

    async def close(self, names: Collection[str]) -> None:
        if self.error is not None:
            raise self.error
        for name in names:
            del self.workers[name]
