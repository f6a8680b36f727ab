"""Units of this machine: one interface, values and errors; back-ends are `systemd_bus` and `process`."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from clusterai.errors import ClusterAIError, Status
from clusterai.ids import UnitName

RULE_FILES = "/usr/share/polkit-1/rules.d/50-cluster*.rules"
_PACKAGES = {
    "clusterai-worker@": "clusterai-agent",
    "clusterai-gate.": "clusterai-agent",
    "clusterai-mirror.": "clusterai-agent",
    "clusterai-agent": "clusterai-agent",
    "clusterai": "clusteraid",
    "open-webui": "clusteraid",
}


@dataclass(frozen=True)
class UnitStatus:
    """A unit as its back-end sees it, in systemd's words. Process id 0: none runs. Times are Unix seconds."""

    unit: UnitName
    description: str = ""
    active_state: str = "inactive"  # active, activating, inactive, failed, deactivating, reloading
    sub_state: str = "dead"
    main_process_id: int = 0
    restart_count: int = 0
    result: str = "success"  # success, exit-code, signal, watchdog, …
    since_unix_seconds: float = 0.0
    installed: bool = True


@dataclass(frozen=True)
class UnitsConfig:
    """How units are controlled.

    The process back-end finds what to start in `launch_directories`: the unit `clusterai-worker@x.service` is described
    by `x.json` in the directory of `clusterai-worker`, and `clusterai-gate.service` by `gate.json` in that of
    `clusterai-gate`. `bus_address` replaces the system bus.
    """

    back_end: Literal["systemd", "process"] = "systemd"
    state_directory: Path = Path("/var/lib/clusterai/units")
    launch_directories: Mapping[str, Path] = field(default_factory=dict)
    stop_on_exit: bool = False
    bus_address: str = ""

    @property
    def log_directory(self) -> Path:
        """Where the process back-end's units write their logs."""
        return self.state_directory / "logs"


class UnitMissing(ClusterAIError):
    code, status = "unit-missing", Status.NOT_FOUND
    message = "there is no unit {unit} on this machine"
    hint = "the package {package} ships it: `sudo apt install {package}`"

    def __init__(self, unit: UnitName) -> None:
        package = next((package for start, package in _PACKAGES.items() if unit.startswith(start)), "")
        super().__init__(unit=unit, package=package or unit.partition("@")[0].removesuffix(".service"))


class NotPermitted(ClusterAIError):
    code, status = "unit-not-permitted", Status.DENIED
    message = "this user may not {verb} {unit}: {reason}"
    hint = "the rule is in {rules}; check that it is there and that polkit runs (`systemctl status polkit`)"

    def __init__(self, verb: str, unit: UnitName, reason: str) -> None:
        super().__init__(verb=verb, unit=unit, reason=reason.rstrip("."), rules=RULE_FILES)


class UnitFailed(ClusterAIError):
    """The job ended other than asked; `result` is systemd's word for how."""

    code, status = "unit-failed", Status.FAILED
    message = "could not {verb} {unit}: {result}"
    hint = "see `{log}`"

    def __init__(self, verb: str, unit: UnitName, result: str, log: str = "") -> None:
        self.result = result
        super().__init__(verb=verb, unit=unit, result=result, log=log or f"journalctl -u {unit}")


class UnitsUnavailable(ClusterAIError):
    code, status = "units-unavailable", Status.UNREACHABLE
    message = "cannot control units: {reason}"
    hint = "{fix}"

    def __init__(self, reason: str, fix: str = "") -> None:
        default = "check the system bus (`systemctl status dbus`); it is tried again by itself"
        super().__init__(reason=reason, fix=fix or default)


class Units(Protocol):
    """Control of units. Every method may also raise UnitsUnavailable: then nothing is known of the unit."""

    @property
    def back_end(self) -> str:
        """`systemd` or `process`."""

    async def start(self, unit: UnitName) -> None:
        """Start the unit and wait until its job is done; one that runs is left alone.

        Raises:
            UnitMissing: no such unit; the hint names the package that ships it.
            NotPermitted: polkit refused; the hint names the rule file.
            UnitFailed: the job ended otherwise; carries `result`.
        """

    async def stop(self, unit: UnitName) -> None:
        """Stop the unit and wait until it is down; one that does not run is left alone. Raises like `start`."""

    async def restart(self, unit: UnitName) -> None:
        """Stop the unit if it runs, and start it. Raises like `start`."""

    async def try_restart(self, unit: UnitName) -> None:
        """Restart the unit if it runs; one that does not is left alone. Raises like `start`."""

    async def reload(self, unit: UnitName) -> None:
        """Let the unit read its configuration again; one that does not run, or cannot, is left alone."""

    async def check_permission(self, unit: UnitName) -> None:
        """Change nothing; raise NotPermitted when this user may not control the unit, UnitMissing for none."""

    async def status(self, unit: UnitName) -> UnitStatus:
        """Return how the unit is; one that does not exist is `installed=False`."""

    def changes(self) -> AsyncIterator[UnitName]:
        """Yield the name of each unit of ours that may have changed since; several changes may come as one."""


class ChangeHub:
    """Tells any number of listeners which units changed. A slow one gets each name once, so memory stays bounded."""

    def __init__(self) -> None:
        self._listeners: set[_Listener] = set()

    def changed(self, unit: UnitName) -> None:
        """Note a change."""
        for listener in self._listeners:
            listener.names[unit] = None
            listener.wake.set()

    async def listen(self) -> AsyncIterator[UnitName]:
        """Yield the names of changed units until the caller stops."""
        listener = _Listener()
        self._listeners.add(listener)
        try:
            while True:
                await listener.wake.wait()
                listener.wake.clear()
                while listener.names:
                    yield listener.names.popitem()[0]
        finally:
            self._listeners.discard(listener)


@dataclass(eq=False)
class _Listener:
    names: dict[UnitName, None] = field(default_factory=dict)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
