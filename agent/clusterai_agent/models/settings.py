"""What Ollama is started with: written where its unit reads it, taken over when nobody uses it."""

import logging
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path

from clusterai.errors import ClusterAIError
from clusterai.files import BadFile, make_shared, read_limited, write_atomic
from clusterai.ollama_settings import BadSettings, Settings, read
from clusterai.units import Units, UnitStatus
from clusterai.v1.types_pb2 import OllamaSettings
from clusterai_agent.models.finder import UNIT

log = logging.getLogger(__name__)

TAKEN = Path("/run/clusterai-ollama.env")  # root writes it whenever ollama.service starts
_FILE_MODE, _TAKEN_LIMIT = 0o640, 4096
_RETRY_SECONDS = 60.0


class Need(Enum):
    """What is to be done for the settings to count."""

    NOTHING = "nothing"
    RESTART = "restart"
    WAIT = "wait"


def need(unit: UnitStatus | None, used: Callable[[], bool], *, taken: bool, first: bool) -> Need:
    """Return what a written file needs: Ollama takes it when it starts, and starts anew only when nobody uses it.

    The first time it does not wait: it runs with another context length than the cluster, and may listen to everybody.
    """
    if unit is None or unit.active_state != "active" or taken:
        return Need.NOTHING
    return Need.WAIT if not first and used() else Need.RESTART


class SettingsFile:
    """`ollama.json` of this node, and whether Ollama has taken it: by what it was started with, never by a clock."""

    def __init__(self, directory: Path, units: Units, taken: Path) -> None:
        self._path, self._units, self._taken = directory / "ollama.json", units, taken
        self._first = False
        self._restarted_for: Settings | None = None
        self._retry_at, self._refusal = 0.0, ""
        self.problem = ""

    def applied(self, unit: UnitStatus | None) -> OllamaSettings | None:
        """Return what Ollama was started with, as far as it is ours to say."""
        current = self._current()
        if current is None or unit is None or unit.active_state != "active":
            return None
        if not self._is_taken(current):
            return None
        return OllamaSettings(
            context_length=current.context_length, parallel_count=current.parallel_count, keep_alive=current.keep_alive
        )

    async def settle(self, wanted: Settings | None, unit: UnitStatus | None, used: Callable[[], bool]) -> None:
        """Write what is wanted, and have Ollama take it; a failure is told and tried again."""
        self.problem = ""
        if wanted is None:
            return
        try:
            self._write(wanted)
            if taken := self._is_taken(wanted):
                self._restarted_for = None
            match need(unit, used, taken=taken, first=self._first):
                case Need.RESTART:
                    await self._restart(wanted)
                case Need.WAIT:
                    self.problem = "its new settings wait until nobody uses it"
        except ClusterAIError as error:
            self.problem = f"its settings cannot be written: {error}"

    def _write(self, wanted: Settings) -> None:
        current = self._current()
        if current == wanted:
            return
        make_shared(self._path.parent)
        write_atomic(self._path, wanted.to_json(), _FILE_MODE)
        self._first = current is None

    async def _restart(self, wanted: Settings) -> None:
        if self._restarted_for == wanted:
            self.problem = f"it was restarted and did not take its settings; see `journalctl -u {UNIT}`"
            return
        if time.monotonic() < self._retry_at:
            self.problem = self._refusal
            return
        log.info("restarting %s: its settings have changed", UNIT)
        self._retry_at = time.monotonic() + _RETRY_SECONDS
        try:
            await self._units.try_restart(UNIT)
        except ClusterAIError as error:
            log.error("%s; %s", str(error), error.advice)
            self.problem = self._refusal = f"it could not be restarted to take its new settings: {error}"
            return
        self._first, self._retry_at, self._restarted_for = False, 0.0, wanted

    def _current(self) -> Settings | None:
        try:
            return read(self._path)
        except BadSettings:
            return None

    def _is_taken(self, settings: Settings) -> bool:
        try:
            return read_limited(self._taken, _TAKEN_LIMIT) == settings.variables().encode()
        except BadFile:
            return False
