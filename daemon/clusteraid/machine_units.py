"""The units of this machine that the daemon controls, by name; what is not listed cannot be touched."""

from collections.abc import Iterable

from clusterai.errors import ClusterAIError, Status
from clusterai.ids import PoolName, UnitName
from clusterai.units import Units, UnitStatus

GATEWAY_UNIT, OLLAMA_UNIT = UnitName("clusterai-gateway.service"), UnitName("ollama.service")
WEBUI_UNIT = UnitName("open-webui.service")
DAEMON_UNIT, AGENT_UNIT = UnitName("clusteraid.service"), UnitName("clusterai-agent.service")
_OPTIONAL = (GATEWAY_UNIT, WEBUI_UNIT, OLLAMA_UNIT)


class OnlyRestarted(ClusterAIError):
    code, status = "only-restarted", Status.DENIED
    message = "clusteraid may restart {unit}, but not {verb} it"
    hint = "on the server: `sudo systemctl {verb} {unit}`"


class UnitNotOurs(ClusterAIError):
    code, status = "unit-not-ours", Status.NOT_FOUND
    message = "{unit} is not a unit that clusteraid controls"
    hint = "`clusteractl unit list` shows those that it does"


def scheduler_unit(pool: PoolName) -> UnitName:
    """Return the unit of a pool's scheduler."""
    return UnitName(f"clusterai-scheduler@{pool}.service")


class MachineUnits:
    """Control of the listed units."""

    def __init__(self, units: Units, pools: Iterable[PoolName]) -> None:
        self._units = units
        self.controlled = (*map(scheduler_unit, pools), GATEWAY_UNIT, WEBUI_UNIT, OLLAMA_UNIT)
        self.readable = (DAEMON_UNIT, AGENT_UNIT, *self.controlled)

    @property
    def back_end(self) -> str:
        """`systemd` or `process`."""
        return self._units.back_end

    async def list(self) -> tuple[UnitStatus, ...]:
        """Return the units' states. Those that a server need not have are left out where they are not installed."""
        states = [await self._units.status(unit) for unit in self.controlled]
        return tuple(state for state in states if state.installed or state.unit not in _OPTIONAL)

    async def start(self, name: str) -> UnitStatus:
        """Start the unit; raise UnitNotOurs, or what `Units.start` raises."""
        return await self._done(name, "start")

    async def stop(self, name: str) -> UnitStatus:
        """Stop the unit."""
        return await self._done(name, "stop")

    async def restart(self, name: str) -> UnitStatus:
        """Stop and start the unit."""
        return await self._done(name, "restart")

    def readable_unit(self, name: str) -> UnitName:
        """Return the unit of that name, `.service` or not, if its log may be read; the daemon's own for no name."""
        return _listed(name or DAEMON_UNIT, self.readable)

    async def _done(self, name: str, verb: str) -> UnitStatus:
        unit = _listed(name, self.controlled)
        if unit == OLLAMA_UNIT and verb != "restart":  # the unit's file is another package's: see the polkit rule
            raise OnlyRestarted(unit=unit, verb=verb)
        await getattr(self._units, verb)(unit)
        return await self._units.status(unit)


def _listed(name: str, units: tuple[UnitName, ...]) -> UnitName:
    full = name if "." in name else f"{name}.service"
    if full not in units:
        raise UnitNotOurs(unit=repr(name[:80]))
    return UnitName(full)
