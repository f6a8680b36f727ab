"""The models of this node: watches Ollama, brings it to the desired state, and tells what it sees."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

from clusterai.errors import ClusterAIError
from clusterai.units import Units
from clusterai.v1.node_pb2 import NodeSpec
from clusterai.v1.types_pb2 import OllamaStatus, PullStatus
from clusterai_agent.config import AgentConfig
from clusterai_agent.models import desired, finder, listening, pulls, status
from clusterai_agent.models.desired import Fetch, Remove, Seen, Step, StopFetching, Wait, Wanted, wanted_of
from clusterai_agent.models.gate import Gate
from clusterai_agent.models.observer import Observation, Observer
from clusterai_agent.models.pulls import Pulls
from clusterai_agent.models.settings import TAKEN, SettingsFile
from clusterai_agent.models.tunnel_units import UNITS
from clusterai_agent.server import Server

log = logging.getLogger(__name__)

_LOOK_SECONDS, _ABSENT_SECONDS = 2.0, 10.0
_GATE_SECONDS, _SOON_SECONDS = 10.0, 1.0
_OURS = {finder.UNIT, *UNITS.values()}


class ModelKeeper:
    """The models of one node. Until the daemon has said what it wants, Ollama is watched and nothing is changed."""

    def __init__(
        self, config: AgentConfig, units: Units, server: Server, changed: Callable[[], None],
        task_user: Callable[[], int | None] = listening.task_user, settings_taken: Path = TAKEN,
    ) -> None:  # fmt: skip
        section = config.ollama
        self._changed = changed
        self._observer = Observer(section, units, task_user)
        self._pulls = Pulls(lambda: self._observer.api, section.mirror_port, self._free_bytes, self._fetch_ended)
        self._settings = SettingsFile(config.state.gate, units, settings_taken)
        self._gate = Gate(config.state.gate, section.mirror_port, units, server)
        self._units = units
        self._wanted: Wanted | None = None
        self._waiting: list[PullStatus] = []
        self._status, self._reachable = OllamaStatus(), False
        self._wake, self._gate_wake = asyncio.Event(), asyncio.Event()

    @property
    def status(self) -> OllamaStatus:
        """What was seen last."""
        return self._status

    def want(self, spec: NodeSpec) -> None:
        """Take the daemon's spec; the newest one counts. One without models leaves them alone and closes the gate."""
        self._wanted = wanted_of(spec.ollama) if spec.HasField("ollama") else Wanted()
        self._look_soon()
        self._gate_wake.set()

    async def look(self) -> None:
        """Look once, so that the first message to the server tells what is here."""
        await self._observer.look()
        self._report()

    async def run(self) -> None:
        """Watch and reconcile until cancelled. Ollama and the gate go on without this process."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_models(), name="models")
                tasks.create_task(self._keep_gate(), name="gate")
                tasks.create_task(self._watch_units(), name="watch units for models")
        finally:
            await self._pulls.stop()

    async def give_up(self) -> None:
        """Another machine or none is the node now."""
        await self._gate.give_up()

    async def _keep_models(self) -> None:
        while True:
            self._wake.clear()
            seen = await self._observer.look()
            if self._observer.stale:
                continue
            if self._wanted is not None:
                await self._reconcile(self._wanted, seen)
            self._report()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS if seen.found.source else _ABSENT_SECONDS):
                    await self._wake.wait()

    async def _reconcile(self, wanted: Wanted, seen: Observation) -> None:
        await self._settings.settle(wanted.settings, seen.unit, self._is_used)
        if not seen.ready:
            self._waiting = []
            return
        todo = desired.steps(wanted.models, self._seen(seen))
        self._waiting = [pulls.waiting(step.model, step.reason) for step in todo if isinstance(step, Wait)]
        self._pulls.forget_all_but(desired.missing(wanted.models, self._seen(seen)))
        for step in todo:
            await self._do(step)

    async def _do(self, step: Step) -> None:
        match step:
            case StopFetching():
                await self._pulls.stop()
                self._look_soon()
            case Fetch(model):
                self._pulls.start(model)
            case Remove(name):
                log.info("removing model %s", name)
                try:
                    await self._observer.api.delete(name)
                except ClusterAIError as error:
                    log.error("cannot remove model %s: %s; %s", name, str(error), error.advice)
                self._observer.look_closely()

    def _seen(self, seen: Observation) -> Seen:
        digests = {name: model.digest for name, model in seen.models.items()}
        return Seen(
            digests, seen.mirrored, self._pulls.fetching, self._pulls.retry_at, self._gate.mirror_problem,
            time.monotonic(),
        )  # fmt: skip

    async def _keep_gate(self) -> None:
        while True:
            self._gate_wake.clear()
            wanted, before = self._wanted, self._gate.mirror_problem
            seen = self._observer.seen
            if wanted is None and seen.may_be_reached:
                await self._gate.resume()
            elif wanted is not None or seen.is_another:
                await self._gate.settle(wanted or Wanted(), self._observer.api.address if seen.may_be_reached else "")
                self._report()
                if self._gate.mirror_problem != before:
                    self._wake.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GATE_SECONDS if self._gate.settled or wanted is None else _SOON_SECONDS):
                    await self._gate_wake.wait()

    async def _watch_units(self) -> None:
        """Wake up when a unit changes; without a bus the slow looks remain."""
        while True:
            try:
                async for unit in self._units.changes():
                    if unit in _OURS:
                        self._look_soon()
                        self._gate_wake.set()
            except ClusterAIError as error:
                log.debug("cannot watch units: %s", error)
            await asyncio.sleep(_GATE_SECONDS)

    def _look_soon(self) -> None:
        self._observer.look_closely()
        self._wake.set()

    def _fetch_ended(self) -> None:
        self._look_soon()

    def _is_used(self) -> bool:
        return self._pulls.fetching is not None or bool(self._observer.port().connections)

    def _free_bytes(self) -> int:
        return self._observer.seen.disk_free_bytes

    def _report(self) -> None:
        """Tell the server when anything is other than before."""
        seen, wanted = self._observer.seen, self._wanted or Wanted()
        now = status.status_of(
            seen, wanted, self._gate.status, [*self._pulls.statuses(), *self._waiting],
            self._settings.applied(seen.unit), self._settings.problem,
        )  # fmt: skip
        if now != self._status:
            self._status = now
            self._changed()
        if seen.may_be_reached != self._reachable:
            self._reachable = seen.may_be_reached
            self._gate_wake.set()
