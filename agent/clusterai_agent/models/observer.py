"""Looks at this machine's Ollama: often at what is in its memory, less often at what is on its disk."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clusterai.errors import ClusterAIError
from clusterai.units import Units, UnitStatus
from clusterai.v1 import types_pb2 as types
from clusterai.v1.types_pb2 import LoadedModel, OllamaModel
from clusterai_agent.config import OllamaSection
from clusterai_agent.models import answers, finder, listening
from clusterai_agent.models.finder import Found
from clusterai_agent.models.listening import Port
from clusterai_agent.models.ollama_api import OllamaApi
from clusterai_agent.models.ollama_errors import OllamaForged, OllamaOdd

log = logging.getLogger(__name__)

_THOROUGH_SECONDS, _PORT_SECONDS = 10.0, 60.0
_SHOWS_AT_ONCE = 40  # of a hundred models nobody waits for the last one's shape
_FOUND_NOTHING = Found(types.SERVICE_STATE_UNSPECIFIED)


@dataclass(frozen=True)
class Observation:
    """How this machine's Ollama was when it was looked at last."""

    found: Found = _FOUND_NOTHING
    version: str = ""
    models: Mapping[str, OllamaModel] = field(default_factory=dict)
    mirrored: Mapping[str, bytes] = field(default_factory=dict)
    elsewhere: tuple[str, ...] = ()
    unusable: int = 0
    loaded: tuple[LoadedModel, ...] = ()
    models_directory: Path | None = None
    disk_free_bytes: int = 0
    can_mirror: bool = False
    exposed: bool = False
    unit: UnitStatus | None = None

    @property
    def ready(self) -> bool:
        """Whether it answers."""
        return bool(self.found.state == types.SERVICE_STATE_READY)

    @property
    def may_be_reached(self) -> bool:
        """Whether the gate may lead there. A unit that is only slow stays: a gate that closes cuts off its answers."""
        runs = self.unit is not None and self.unit.active_state == "active" and self.found.source == "unit"
        return self.ready or runs

    @property
    def is_another(self) -> bool:
        """Whether something else than Ollama has its port."""
        return bool(self.found.state == types.SERVICE_STATE_FAILED) and self.found.source == "address"


class Observer:
    """One Ollama. `look` never raises: what cannot be seen is part of what is seen.

    What the user of `task_user` runs is no Ollama: it is anybody's code.
    """

    def __init__(self, section: OllamaSection, units: Units, task_user: Callable[[], int | None]) -> None:
        self._section, self._units, self._task_user = section, units, task_user
        self._mirror_host = f"127.0.0.1:{section.mirror_port}"
        self._shown: dict[bytes, OllamaModel] = {}  # capabilities and shape by digest
        self._thorough_at = 0.0
        self._asked = False
        self._port_at, self._exposed = 0.0, False
        self.seen = Observation()

    @property
    def api(self) -> OllamaApi:
        """The Ollama that is looked at."""
        return OllamaApi(self._section.address or finder.default_address())

    def look_closely(self) -> None:
        """Let the next look be at everything: something was done."""
        self._asked = True

    @property
    def stale(self) -> bool:
        """Whether something was done since the last look began."""
        return self._asked

    async def look(self) -> Observation:
        """Return how it is now."""
        before, asked = self.seen, self._asked
        self._asked = False
        try:
            if not before.ready:
                await self.api.knock()
            self._refuse_tasks()
            loaded = answers.loaded_of(await self.api.get("/api/ps"))
        except ClusterAIError as error:
            failure: ClusterAIError | None = error
        else:
            failure = None
            self.seen = Observation(**{**vars(before), "loaded": tuple(loaded)})
        if asked or time.monotonic() >= self._thorough_at or (failure is None) != before.ready:
            self.seen = await self._thorough(failure)
            self._thorough_at = time.monotonic() + _THOROUGH_SECONDS
        return self.seen

    def _refuse_tasks(self) -> None:
        """Raise OllamaForged where a task of Dask has the port: it would be sent what people ask."""
        user = self._task_user()
        if user is not None and user in listening.listeners(self._port):
            raise OllamaForged(address=self.api.address, user=listening.TASK_USER)

    async def _thorough(self, failure: ClusterAIError | None) -> Observation:
        facts: dict[str, Any] = {}
        if failure is None:
            try:
                facts = await self._told()
            except ClusterAIError as error:
                failure = error
        unit = await self._unit()
        state = finder.found(unit, finder.binary(), failure, time.time())
        if failure is not None:
            return Observation(found=state, unit=unit)
        return Observation(found=state, unit=unit, **facts, **await asyncio.to_thread(self._around))

    async def _told(self) -> dict[str, Any]:
        """What it says itself."""
        version = answers.version_of(await self.api.get("/api/version"))
        if not version:
            raise OllamaOdd(address=self.api.address, reason="it tells no version")
        tags = answers.Tags(await self.api.get("/api/tags"), self._mirror_host)
        await self._learn(tags.models)
        return {
            "version": version,
            "models": tags.models,
            "mirrored": tags.mirrored,
            "elsewhere": tuple(tags.elsewhere),
            "unusable": tags.unusable,
            "loaded": self.seen.loaded,
        }

    async def _learn(self, models: Mapping[str, OllamaModel]) -> None:
        """Fill in what only `/api/show` tells, asked once for each digest."""
        new = [model for model in models.values() if model.digest not in self._shown]
        for model in new[:_SHOWS_AT_ONCE]:
            try:
                answer = await self.api.show(model.model)
            except ClusterAIError as error:
                log.info("cannot look at model %s: %s", model.model, str(error))
                continue
            self._shown[model.digest] = OllamaModel(
                capabilities=answers.capabilities_of(answer), shape=answers.shape_of(answer)
            )
        present = {model.digest for model in models.values()}
        self._shown = {digest: shown for digest, shown in self._shown.items() if digest in present}
        for model in models.values():
            if (shown := self._shown.get(model.digest)) is None:
                continue
            model.shape.CopyFrom(shown.shape)
            if shown.capabilities:
                del model.capabilities[:]
                model.capabilities.extend(shown.capabilities)

    async def _unit(self) -> UnitStatus | None:
        try:
            status = await self._units.status(finder.UNIT)
        except ClusterAIError:
            return None
        return status if status.installed else None

    def _around(self) -> dict[str, Any]:
        """What this machine tells of it."""
        directory = finder.models_directory(self._section.models_directory)
        return {
            "models_directory": directory,
            "disk_free_bytes": finder.free_bytes(directory),
            "can_mirror": directory is not None and finder.can_be_served(directory),
            "exposed": self._is_exposed(),
        }

    def _is_exposed(self) -> bool:
        """Whether other machines can connect to it; the kernel's table is long, so it is not read every time."""
        if time.monotonic() >= self._port_at:
            self._exposed = self.port().exposed
            self._port_at = time.monotonic() + _PORT_SECONDS
        return self._exposed

    def port(self) -> Port:
        """Return who listens on its port, and how many are connected to it, now."""
        return listening.look(self._port)

    @property
    def _port(self) -> int:
        return int(self.api.address.rpartition(":")[2])
