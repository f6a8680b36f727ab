"""What the rest of the daemon needs of a pool: its workers as the scheduler knows them, and power over them."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from clusterai.v1.cluster_pb2 import PoolStatus
from clusterai.v1.types_pb2 import EnvironmentSpec, EnvironmentStatus, PoolSpec


@dataclass(frozen=True)
class PoolPlan:
    """What all nodes of the pool share: it changes only with a new daemon."""

    name: str
    environment: EnvironmentSpec
    lock_text: str


class RegisteredWorker(Protocol):
    """A worker that the scheduler knows. Sizes in bytes; `processing` counts its tasks."""

    @property
    def name(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def memory_limit(self) -> int: ...
    @property
    def processing(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def status(self) -> str: ...


class PoolPort(Protocol):
    """A pool, as sessions and drains use it."""

    @property
    def plan(self) -> PoolPlan:
        """What its nodes share."""

    async def settled(self) -> None:
        """Wait until `workers` can be believed: the scheduler answers, or does not run at all."""

    @property
    def workers(self) -> Mapping[str, RegisteredWorker]:
        """The registered workers by name."""

    def spec(self) -> PoolSpec:
        """Return what nodes are told about the pool: always the same message, not to be changed."""

    def hold(self, names: Collection[str]) -> None:
        """Give no new tasks to exactly these workers, registered or not, from now on."""

    def status(self) -> PoolStatus:
        """Return what people are shown of the pool."""

    async def retire(self, names: Collection[str], progress: Callable[[int, int, int], None]) -> None:
        """Move the workers' results away and end them; progress hears running tasks, moved and all results."""

    async def close(self, names: Collection[str]) -> None:
        """End the workers at once; what they computed is computed again. Raises SchedulerAway, SchedulerRefused."""

    def environment_told(self, status: EnvironmentStatus) -> None:
        """Hear how far this machine's own agent is with the environment in which the scheduler runs."""

    def on_changed(self, listener: Callable[[], None]) -> None:
        """Call the listener whenever workers come, go or change."""
