"""The gate's and the mirror's units: their launch files, and starting, stopping and reloading them."""

import logging
from pathlib import Path

from clusterai.errors import ClusterAIError
from clusterai.files import BadFile, make_shared, read_limited, remove, write_atomic
from clusterai.ids import UnitName
from clusterai.tunnels import GateLaunch, MirrorLaunch
from clusterai.units import Units, UnitStatus
from clusterai.v1 import types_pb2 as types
from clusterai.v1.types_pb2 import ServiceState
from clusterai_agent.models import listening

log = logging.getLogger(__name__)

UNITS = {"gate": UnitName("clusterai-gate.service"), "mirror": UnitName("clusterai-mirror.service")}
_FILE_MODE, _FILE_LIMIT = 0o640, 1 << 16


class Tunnels:
    """Both units. Their launch files in one directory are the record of what shall run.

    Beside one lies a mark until its unit has taken it: a restart that failed, or an agent that ended, leaves it due.
    """

    def __init__(self, directory: Path, units: Units) -> None:
        self._directory, self._units = directory, units
        self._listening: dict[str, int] = {}  # the process that was seen to listen: the kernel's table is long

    def file(self, kind: str) -> Path:
        """Where the launch file of a kind lies."""
        return self._directory / f"{kind}.json"

    def _due(self, kind: str) -> Path:
        """The mark."""
        return self._directory / f"{kind}.due"

    def is_meant_to_run(self, kind: str) -> bool:
        """Whether it was started and never stopped."""
        return self.file(kind).exists()

    async def run(self, kind: str, launch: GateLaunch | MirrorLaunch, *, new_certificate: bool) -> None:
        """Make the unit run as the launch says. One that does goes on, with a new certificate if there is one."""
        make_shared(self._directory)
        text = launch.to_json().encode()
        if self._text(kind) != text:
            self._listening.pop(kind, None)
            write_atomic(self._due(kind), b"", _FILE_MODE)
            write_atomic(self.file(kind), text, _FILE_MODE)
        if not await self._start(kind):
            if self._due(kind).exists():
                log.info("restarting the %s: what it leads to has changed", kind)
                await self._units.restart(UNITS[kind])
            elif new_certificate:
                log.info("the %s takes its new certificate", kind)
                await self._units.reload(UNITS[kind])
        remove(self._due(kind))

    async def resume(self, kind: str) -> None:
        """Start what was running before this machine or its units went down."""
        if self.is_meant_to_run(kind):
            await self._start(kind)

    async def stop(self, kinds: tuple[str, ...] = tuple(UNITS)) -> None:
        """Stop the units and forget that they shall run."""
        for kind in kinds:
            if self.is_meant_to_run(kind):
                log.info("stopping the %s", kind)
                await self._units.stop(UNITS[kind])
                remove(self.file(kind))
                remove(self._due(kind))

    async def state(self, kind: str, port: int) -> tuple[ServiceState, str]:
        """Return how the unit is, and why it is not as it should be; one that does not listen yet is starting."""
        try:
            unit = await self._units.status(UNITS[kind])
        except ClusterAIError as error:
            return types.SERVICE_STATE_FAILED, str(error)
        state, reason = state_of(unit)
        if state == types.SERVICE_STATE_READY and self._listening.get(kind) != unit.main_process_id:
            seen = listening.look(port)
            if seen.known and not seen.listens:
                reason = f"it does not listen on port {port} yet; see `journalctl -u {unit.unit}`"
                return types.SERVICE_STATE_STARTING, reason
            self._listening[kind] = unit.main_process_id
        return state, reason

    async def _start(self, kind: str) -> bool:
        """Start the unit unless it runs; return whether that was needed."""
        status = await self._units.status(UNITS[kind])
        if status.active_state not in ("inactive", "failed"):
            return False
        log.info("starting the %s", kind)
        await self._units.start(UNITS[kind])
        return True

    def _text(self, kind: str) -> bytes:
        try:
            return read_limited(self.file(kind), _FILE_LIMIT)
        except BadFile:
            return b""


def state_of(unit: UnitStatus) -> tuple[ServiceState, str]:
    """Return a unit's state in the words of the wire."""
    if not unit.installed:
        return types.SERVICE_STATE_ABSENT, f"there is no unit {unit.unit}; reinstall the package clusterai-agent"
    match unit.active_state:
        case "active" | "reloading":
            return types.SERVICE_STATE_READY, ""
        case "activating" if not unit.restart_count and unit.sub_state != "auto-restart":
            return types.SERVICE_STATE_STARTING, ""
        case "activating" | "failed":
            return types.SERVICE_STATE_FAILED, f"it ended ({unit.result or 'unknown'}); see `journalctl -u {unit.unit}`"
        case _:
            return types.SERVICE_STATE_STOPPED, ""
