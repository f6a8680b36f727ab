"""What the daemon says of itself: problems in sentences, and one line for `systemctl status`."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from clusterai import __version__
from clusterai.program import Notifier
from clusterai.v1.cluster_pb2 import GetStatusResponse, ModelsStatus, PoolStatus
from clusteraid.addresses import Reach
from clusteraid.nodes import Nodes
from clusteraid.pool_port import PoolPort
from clusteraid.registry import State
from clusteraid.store import Store

_LINE_SECONDS = 1.0


class Problems:
    """What is wrong now and does not stop the daemon: one sentence for each subject."""

    def __init__(self) -> None:
        self._sentences: dict[str, str] = {}

    def set(self, subject: str, sentence: str) -> None:
        """Note a problem, or that it is over: an empty sentence."""
        self._sentences.pop(subject, None)
        if sentence:
            self._sentences[subject] = sentence

    def find(self, subject: str) -> str:
        """Return the subject's problem; empty when there is none."""
        return self._sentences.get(subject, "")

    def all(self) -> tuple[str, ...]:
        """Return all sentences."""
        return tuple(self._sentences.values())


@dataclass(frozen=True)
class AboutServer:
    """What does not change while the daemon runs."""

    cluster_id: str
    ca_sha256: bytes
    ca_pem: bytes
    configuration_file: str
    reach: Reach
    started: float = field(default_factory=time.time)


class StatusReport:
    """The whole cluster in one answer, and in one line. `models` tells what is served; None: no gateway here."""

    def __init__(
        self, about: AboutServer, nodes: Nodes, pools: Iterable[PoolPort], store: Store, problems: Problems,
        models: Callable[[], Awaitable[ModelsStatus | None]],
    ) -> None:  # fmt: skip
        self._about, self._nodes, self._pools, self._store, self._problems = about, nodes, pools, store, problems
        self._models = models

    async def response(self, pending: int) -> GetStatusResponse:
        """Return the status; `pending` nodes wait for approval."""
        counts = {state.value: count for state, count in self._nodes.counts().items()}
        if pending:
            counts[State.PENDING.value] = pending
        return GetStatusResponse(
            cluster_id=self._about.cluster_id, server_version=__version__, node_counts=counts,
            started_unix_seconds=self._about.started, pools=[self._pool(pool) for pool in self._pools],
            server_addresses=self._about.reach.cluster(), problems=self.problems(),
            configuration_file=self._about.configuration_file, ca_fingerprint=self._about.ca_sha256.hex(),
            clock_unix_seconds=time.time(), ca_pem=self._about.ca_pem.decode(), models=await self._models(),
        )

    def _pool(self, pool: PoolPort) -> PoolStatus:
        status = pool.status()
        status.scheduler_address = self._about.reach.at_first_host(status.scheduler_address)
        return status

    def problems(self) -> tuple[str, ...]:
        """Return what is wrong now."""
        return (*((self._store.problem,) if self._store.problem else ()), *self._problems.all())

    def line(self) -> str:
        """Return the status in one line."""
        counts = self._nodes.counts()
        ready = counts.get(State.READY, 0)
        others = ", ".join(f"{count} {state.value}" for state, count in counts.items() if state is not State.READY)
        line = f"{_counted(ready, 'node')} ready{', ' + others if others else ''}"
        line += f", {_counted(sum(len(pool.workers) for pool in self._pools), 'worker')}"
        problems = self.problems()
        return line + (f"; {problems[0]}" if problems else "")

    async def keep_telling(self, notifier: Notifier) -> None:
        """Tell systemd the line whenever it changed, for ever."""
        told = ""
        while True:
            line = self.line()
            if line != told:
                notifier.status(line)
                told = line
            await asyncio.sleep(_LINE_SECONDS)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
