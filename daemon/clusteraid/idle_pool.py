"""A pool whose scheduler nobody controls: no workers are known."""

from collections.abc import Callable, Collection, Mapping

from clusterai.v1.cluster_pb2 import PoolStatus
from clusterai.v1.types_pb2 import PoolSpec
from clusteraid.pool_port import PoolPlan, RegisteredWorker


class IdlePool:
    """Keeps the pool's name and environment."""

    def __init__(self, plan: PoolPlan, port: int) -> None:
        self._plan, self._port = plan, port
        self.workers: Mapping[str, RegisteredWorker] = {}

    async def settled(self) -> None:
        """Return at once."""

    def spec(self) -> PoolSpec:
        """Return what nodes are told about the pool."""
        address = f"tls://:{self._port}"
        return PoolSpec(pool_name=self._plan.name, scheduler_address=address, environment=self._plan.environment)

    def hold(self, names: Collection[str]) -> None:
        """Hold nobody."""

    def status(self) -> PoolStatus:
        """Return its name and that it is stopped."""
        return PoolStatus(pool_name=self._plan.name, scheduler_state="stopped", environment=self._plan.environment)

    async def retire(self, names: Collection[str], progress: Callable[[int, int, int], None]) -> None:
        """Return at once."""

    def on_changed(self, listener: Callable[[], None]) -> None:
        """Never call it."""
