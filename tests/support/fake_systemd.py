"""A private bus, and on it a small systemd: units that run real processes, jobs that end with a signal, refusals.

Types: it answers the calls of `systemd_bus` and nothing else; an unknown call is an error reply, as from systemd.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio.message_bus import MessageBus

from clusterai.units.systemd_bus import _close

_SYSTEMD, _ROOT = "org.freedesktop.systemd1", "/org/freedesktop/systemd1"
_MANAGER = f"{_SYSTEMD}.Manager"
_BUS_CONFIG = """<busconfig><type>session</type><listen>unix:path={directory}/bus</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
</policy>
</busconfig>"""


@contextmanager
def private_bus() -> Iterator["BusDaemon"]:
    """Run a bus daemon of our own until the end of the block."""
    directory = Path(tempfile.mkdtemp(prefix="bus-"))
    bus = BusDaemon(directory)
    try:
        bus.start()
        yield bus
    finally:
        bus.stop()
        shutil.rmtree(directory)


class BusDaemon:
    """The bus's process; it can be stopped and started again on the same address."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.address = f"unix:path={directory}/bus"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it listens."""
        (self._directory / "bus").unlink(missing_ok=True)
        config = self._directory / "bus.conf"
        config.write_text(_BUS_CONFIG.format(directory=self._directory))
        command = ["dbus-daemon", f"--config-file={config}", "--nofork", "--print-address"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def stop(self) -> None:
        """End it; every connection breaks."""
        if self._process is not None:
            self._process.terminate()
            self._process.communicate(timeout=10)
            self._process = None


@dataclass
class FakeUnit:
    """A unit with a real process that only waits."""

    name: str
    properties: dict[str, Any] = field(default_factory=dict)
    process: asyncio.subprocess.Process | None = None
    job_result: str = "done"
    denied: str = ""
    reloads: int = 0
    before_start: Callable[[], object] = lambda: None  # its ExecStartPre


class FakeSystemd:
    """The manager. Tests change `units`; `hang` holds back the end of jobs."""

    def __init__(self, bus: MessageBus) -> None:
        self._bus: Any = bus
        self.units: dict[str, FakeUnit] = {}
        self.hang = False
        self._jobs = 0
        self._tasks: set[asyncio.Task[None]] = set()
        bus.add_message_handler(self._called)

    def add(self, name: str) -> FakeUnit:
        """Install a unit."""
        unit = self.units[name] = FakeUnit(name)
        self._note(unit, "inactive", "dead", NRestarts=0, Result="success")
        return unit

    async def close(self) -> None:
        """End the processes and the work that goes on."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for unit in self.units.values():
            await self._end(unit)

    def _called(self, message: Message) -> Message | None:
        if message.message_type is not MessageType.METHOD_CALL or not (message.path or "").startswith(_ROOT):
            return None
        match message.member:
            case "Subscribe":
                return Message.new_method_return(message)
            case "LoadUnit":
                return Message.new_method_return(message, "o", [_path(message.body[0])])
            case "GetAll":
                return self._properties(message)
            case "StartUnit" | "StopUnit" | "RestartUnit" | "TryRestartUnit" | "ReloadUnit":
                return self._refused(message) or self._queue(message)
            case "ResetFailedUnit":
                return self._refused(message) or Message.new_method_return(message)
            case _:
                return Message.new_error(message, "org.freedesktop.DBus.Error.UnknownMethod", "no such method")

    def _properties(self, message: Message) -> Message:
        unit = next((unit for unit in self.units.values() if _path(unit.name) == message.path), None)
        service = message.body[0].endswith(".Service")
        known: dict[str, Any] = unit.properties if unit else {"LoadState": Variant("s", "not-found")}
        own = {"MainPID", "NRestarts", "Result"}
        return Message.new_method_return(
            message, "a{sv}", [{name: value for name, value in known.items() if (name in own) == service}]
        )

    def _refused(self, message: Message) -> Message | None:
        unit = self.units.get(message.body[0])
        if unit is None:
            text = f"Unit {message.body[0]} not found."
            return Message.new_error(message, f"{_SYSTEMD}.NoSuchUnit", text)
        if unit.denied:
            return Message.new_error(message, f"org.freedesktop.DBus.Error.{unit.denied}", "Access denied")
        return None

    def _queue(self, message: Message) -> Message:
        unit = self.units[message.body[0]]
        self._jobs += 1
        job = f"{_ROOT}/job/{self._jobs}"
        task = asyncio.create_task(self._run(unit, str(message.member), job), name=f"fake job {job}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return Message.new_method_return(message, "o", [job])

    async def _run(self, unit: FakeUnit, method: str, job: str) -> None:
        while self.hang:
            await asyncio.sleep(0.02)
        result = unit.job_result
        runs = unit.properties["ActiveState"].value == "active"
        if result == "done" and (runs or method != "TryRestartUnit"):
            unit.reloads += method == "ReloadUnit"
            if method in ("StopUnit", "RestartUnit", "TryRestartUnit"):
                await self._end(unit)
                self._note(unit, "inactive", "dead", Result="success", MainPID=0)
            if method not in ("StopUnit", "ReloadUnit") and unit.properties["ActiveState"].value != "active":
                await self._begin(unit, 0)
        body = [int(job.rpartition("/")[2]), job, unit.name, result]
        await self._bus.send(Message.new_signal(_ROOT, _MANAGER, "JobRemoved", "uoss", body))

    async def _begin(self, unit: FakeUnit, restarts: int) -> None:
        unit.before_start()
        process = unit.process = await asyncio.create_subprocess_exec("sleep", "1000")
        self._note(unit, "active", "running", MainPID=process.pid, NRestarts=restarts, Result="success")
        task = asyncio.create_task(self._restart_always(unit, process, restarts), name=f"fake {unit.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _restart_always(self, unit: FakeUnit, process: asyncio.subprocess.Process, restarts: int) -> None:
        await process.wait()
        if unit.process is process:
            self._note(unit, "activating", "auto-restart", MainPID=0, Result="signal")
            await asyncio.sleep(0.5)
            if unit.process is process:
                await self._begin(unit, restarts + 1)

    async def _end(self, unit: FakeUnit) -> None:
        process, unit.process = unit.process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.terminate()
            await process.wait()

    def _note(self, unit: FakeUnit, active: str, sub: str, **service: Any) -> None:
        kinds = {"MainPID": "u", "NRestarts": "u", "Result": "s"}
        common = {"LoadState": "loaded", "ActiveState": active, "SubState": sub, "Description": f"fake {unit.name}"}
        unit.properties |= {name: Variant("s", value) for name, value in common.items()}
        unit.properties |= {name: Variant(kinds[name], value) for name, value in service.items()}
        unit.properties["CanReload"] = Variant("b", True)
        unit.properties["StateChangeTimestamp"] = Variant("t", int(time.time() * 1e6))
        changed: list[Any] = [f"{_SYSTEMD}.Unit", {"ActiveState": Variant("s", active)}, []]
        signal_ = Message.new_signal(
            _path(unit.name), "org.freedesktop.DBus.Properties", "PropertiesChanged", "sa{sv}as", changed
        )
        if self._bus.connected:
            self._bus.send(signal_)


@asynccontextmanager
async def fake_systemd(address: str) -> AsyncIterator[FakeSystemd]:
    """Put a systemd on the bus until the end of the block."""
    bus = await MessageBus(address).connect()
    systemd = FakeSystemd(bus)
    await bus.request_name(_SYSTEMD)
    try:
        yield systemd
    finally:
        await systemd.close()
        await _close(bus)


async def kill(process_id: int) -> None:
    """Kill a unit's process behind its manager's back."""
    os.kill(process_id, signal.SIGKILL)


def _path(name: str) -> str:
    """Return a unit's object path: what is no letter or digit becomes `_` and its hex code (sd_bus_path_encode(3))."""
    escaped = "".join(char if char.isascii() and char.isalnum() else f"_{ord(char):02x}" for char in name)
    return f"{_ROOT}/unit/{escaped}"
