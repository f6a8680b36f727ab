"""Units of systemd over the system bus. The only module that speaks D-Bus.

Uses the part of dbus-fast that is the same from 1.84 on: `MessageBus.call` and message handlers. Bus loss is normal:
it is connected again with backoff, and nothing is ever read out of silence but UnitsUnavailable.
"""

import asyncio
import contextlib
import logging
import random
import re
from collections import OrderedDict
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

from dbus_fast import AuthError, BusType, InvalidAddressError, Message, MessageType
from dbus_fast.aio.message_bus import MessageBus

from clusterai.errors import TimedOut
from clusterai.ids import UnitName
from clusterai.units.api import ChangeHub, NotPermitted, UnitFailed, UnitMissing, UnitStatus, UnitsUnavailable

log = logging.getLogger(__name__)

_SYSTEMD, _ROOT = "org.freedesktop.systemd1", "/org/freedesktop/systemd1"
_MANAGER, _UNIT, _SERVICE = (f"{_SYSTEMD}.{name}" for name in ("Manager", "Unit", "Service"))
_BUS, _BUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"
_PROPERTIES = "org.freedesktop.DBus.Properties"
_MATCHES = (
    f"type='signal',sender='{_SYSTEMD}',path='{_ROOT}',interface='{_MANAGER}',member='JobRemoved'",
    f"type='signal',sender='{_SYSTEMD}',path='{_ROOT}',interface='{_MANAGER}',member='Reloading'",
    f"type='signal',sender='{_SYSTEMD}',path_namespace='{_ROOT}/unit',interface='{_PROPERTIES}',arg0='{_UNIT}'",
    f"type='signal',sender='{_BUS}',path='{_BUS_PATH}',member='NameOwnerChanged',arg0='{_SYSTEMD}'",
)
_OURS = "clusterai"
_CONNECT_SECONDS, _CALL_SECONDS, _JOB_SECONDS = 5.0, 25.0, 120.0
_FIRST_DELAY, _LONGEST_DELAY = 0.2, 15.0
_LOOKS = 3
_KEPT_JOBS = 256  # results of jobs whose number we do not know yet, or that are not ours
_MISSING = {f"{_SYSTEMD}.NoSuchUnit", f"{_SYSTEMD}.LoadFailed", "org.freedesktop.DBus.Error.FileNotFound"}
_DENIED = {
    f"{_BUS}.Error.AccessDenied",
    f"{_BUS}.Error.InteractiveAuthorizationRequired",
    "org.freedesktop.PolicyKit1.Error.NotAuthorized",
    "org.freedesktop.PolicyKit1.Error.Failed",
}
_AWAY = {
    f"{_BUS}.Error.{name}"
    for name in ("NoReply", "ServiceUnknown", "NameHasNoOwner", "Disconnected", "Timeout", "TimedOut", "NoServer")
}


class _Refused(Exception):
    """An error reply."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name, self.text = name, text


_FAILURES = (OSError, EOFError, AuthError, InvalidAddressError, TimeoutError, _Refused, UnitsUnavailable)


class _Bus(MessageBus):
    """A connection that leaves no socket to the garbage collector when it cannot be made."""

    def __init__(self, address: str) -> None:
        known: Any = address or None  # dbus-fast does not say that it may be None
        try:
            super().__init__(known, BusType.SYSTEM)
        except BaseException:
            _release(self)
            raise


class SystemdUnits:
    """The units of this machine. Opens without a bus too: then every method raises UnitsUnavailable until it is there.

    An empty address means the system bus.
    """

    back_end = "systemd"

    def __init__(self, bus_address: str = "") -> None:
        self._address = bus_address
        self._bus: MessageBus | None = None
        self._problem = "not connected to the system bus yet"
        self._hub = ChangeHub()
        self._known: set[UnitName] = set()
        self._jobs: dict[str, asyncio.Future[str]] = {}
        self._results: OrderedDict[str, str] = OrderedDict()
        self._keeping: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        tried = asyncio.Event()
        self._keeping = asyncio.create_task(self._stay_connected(tried), name="system bus")
        await tried.wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
            self._keeping = None  # it would keep the bus alive

    async def start(self, unit: UnitName) -> None:
        """Start the unit and wait until its job is done. Raises UnitMissing, NotPermitted, UnitFailed."""
        await self._job("start", "StartUnit", unit)

    async def stop(self, unit: UnitName) -> None:
        """Stop the unit and wait until its job is done."""
        await self._job("stop", "StopUnit", unit)

    async def restart(self, unit: UnitName) -> None:
        """Restart the unit, or start it, and wait until its job is done."""
        await self._job("restart", "RestartUnit", unit)

    async def try_restart(self, unit: UnitName) -> None:
        """Restart the unit if it runs, and wait until its job is done."""
        await self._job("restart", "TryRestartUnit", unit)

    async def reload(self, unit: UnitName) -> None:
        """Let the unit read its configuration again, where it runs and has a way to."""
        self._known.add(unit)
        try:
            (path,) = await self._call(_MANAGER, "LoadUnit", "s", unit)
            common = await self._properties(path, _UNIT)
        except _Refused as error:
            raise _translated(error, "reload", unit) from error
        if common.get("LoadState") == "not-found":
            raise UnitMissing(unit)
        if common.get("ActiveState") == "active" and common.get("CanReload"):
            await self._job("reload", "ReloadUnit", unit)

    async def check_permission(self, unit: UnitName) -> None:
        """Ask polkit through the one verb that changes nothing on a unit that has not failed: `reset-failed`."""
        try:
            await self._call(_MANAGER, "ResetFailedUnit", "s", unit)
        except _Refused as error:
            if error.name not in _MISSING or not (await self.status(unit)).installed:
                raise _translated(error, "control", unit) from error
            # Not loaded, so it does not run: `try-restart` asks polkit too and then finds nothing to do.
            await self._job("control", "TryRestartUnit", unit)

    async def status(self, unit: UnitName) -> UnitStatus:
        """Return how systemd sees the unit."""
        self._known.add(unit)
        try:
            (path,) = await self._call(_MANAGER, "LoadUnit", "s", unit)
            common = await self._properties(path, _UNIT)
            if common.get("LoadState") == "not-found":
                return UnitStatus(unit, installed=False, result="")
            for _ in range(_LOOKS):
                service, before = await self._properties(path, _SERVICE), common
                common = await self._properties(path, _UNIT)
                if common.get("SubState") == before.get("SubState"):  # else it changed between the questions
                    break
            return _status(unit, common, service)
        except _Refused as error:
            if error.name in _MISSING:
                return UnitStatus(unit, installed=False, result="")
            raise _translated(error, "look at", unit) from error

    def changes(self) -> AsyncIterator[UnitName]:
        """Yield the names of our units and of those asked for, when systemd says that they changed.

        After the bus was lost every known unit counts as changed.
        """
        return self._hub.listen()

    async def _properties(self, path: str, interface: str) -> dict[str, Any]:
        (properties,) = await self._call(_PROPERTIES, "GetAll", "s", interface, path=path)
        return {name: variant.value for name, variant in properties.items()}

    async def _job(self, verb: str, method: str, unit: UnitName) -> None:
        """Queue the job and wait for its end: the reply only says that it was queued."""
        self._known.add(unit)
        try:
            (path,) = await self._call(_MANAGER, method, "ss", unit, "replace")
        except _Refused as error:
            if error.name in _DENIED and not (await self.status(unit)).installed:
                raise UnitMissing(unit) from error  # polkit is asked before systemd looks for the file
            raise _translated(error, verb, unit) from error
        result = await self._job_result(path, verb, unit)
        if result != "done":
            raise UnitFailed(verb, unit, result)

    async def _job_result(self, path: str, verb: str, unit: UnitName) -> str:
        if path in self._results:  # it ended before its reply was read
            return self._results.pop(path)
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._jobs[path] = future
        try:
            async with asyncio.timeout(_JOB_SECONDS):
                return await future
        except TimeoutError as error:
            raise TimedOut(what=f"systemd's job to {verb} {unit}", limit=f"{_JOB_SECONDS:g} s") from error
        finally:
            self._jobs.pop(path, None)

    async def _call(self, interface: str, member: str, signature: str = "", *body: Any, path: str = _ROOT) -> list[Any]:
        """Call systemd; raise _Refused for an error reply and UnitsUnavailable when there is no bus or no answer."""
        if self._bus is None:
            raise UnitsUnavailable(self._problem)
        return await _call(self._bus, _message(_SYSTEMD, path, interface, member, signature, body))

    async def _stay_connected(self, tried: asyncio.Event) -> None:
        """Connect, and connect again, for as long as this object is open."""
        attempt = 0
        while True:
            bus: MessageBus | None = None
            try:
                bus = await self._connect()
                attempt = 0
                tried.set()
                await _disconnected(bus)
                self._lost("the system bus closed the connection")
            except _FAILURES as error:
                self._lost(str(error) or type(error).__name__)
            finally:
                self._bus = None
                tried.set()
                await _close(bus)
            delay = min(_FIRST_DELAY * 2.0 ** min(attempt, 10), _LONGEST_DELAY)
            attempt += 1
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311

    async def _connect(self) -> MessageBus:
        bus = _Bus(self._address)
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await bus.connect()
                bus.add_message_handler(self._message_received)
                for rule in _MATCHES:
                    await _call(bus, _message(_BUS, _BUS_PATH, _BUS, "AddMatch", "s", (rule,)))
                await _call(bus, _message(_SYSTEMD, _ROOT, _MANAGER, "Subscribe", "", ()))
        except BaseException:
            await _close(bus)
            raise
        self._bus = bus
        log.debug("connected to the system bus")
        self._all_changed()
        return bus

    def _lost(self, reason: str) -> None:
        """Nobody knows now how any unit is: whoever waits hears that, and looks again when the bus is back."""
        if self._bus is not None or self._problem != reason:
            log.warning("no connection to systemd: %s; trying again", reason)
        self._bus, self._problem = None, reason
        self._results.clear()
        for future in self._jobs.values():
            if not future.done():
                future.set_exception(UnitsUnavailable(f"{reason} while a job was running; its end is not known"))

    def _message_received(self, message: Message) -> None:
        if message.message_type is not MessageType.SIGNAL:
            return
        if message.member == "JobRemoved" and message.signature == "uoss":
            self._job_removed(message.body[1], message.body[2], message.body[3])
        elif message.member == "PropertiesChanged":
            self._unit_changed(_name_of(message.path or ""))
        elif message.member == "NameOwnerChanged" or (message.member == "Reloading" and message.body == [False]):
            self._all_changed()

    def _job_removed(self, job: str, unit: str, result: str) -> None:
        future = self._jobs.get(job)
        if future is None:
            self._results[job] = result
            while len(self._results) > _KEPT_JOBS:
                self._results.popitem(last=False)
        elif not future.done():
            future.set_result(result)
        self._unit_changed(unit)

    def _unit_changed(self, name: str) -> None:
        if name.startswith(_OURS) or name in self._known:
            self._hub.changed(UnitName(name))

    def _all_changed(self) -> None:
        for unit in self._known:
            self._hub.changed(unit)


def _message(
    destination: str, path: str, interface: str, member: str, signature: str, body: tuple[Any, ...]
) -> Message:
    return Message(
        destination=destination, path=path, interface=interface, member=member, signature=signature, body=list(body)
    )


async def _call(bus: MessageBus, message: Message) -> list[Any]:
    try:
        async with asyncio.timeout(_CALL_SECONDS):
            reply = await bus.call(message)
    except (OSError, EOFError, TimeoutError) as error:
        raise UnitsUnavailable(f"the system bus does not answer ({str(error) or type(error).__name__})") from error
    if reply is None:
        raise UnitsUnavailable("the system bus gave no reply")
    if reply.message_type is MessageType.ERROR:
        text = str(reply.body[0]) if reply.body else ""
        if reply.error_name in _AWAY:
            raise UnitsUnavailable(f"systemd does not answer ({text or reply.error_name})")
        raise _Refused(str(reply.error_name), text)
    return list(reply.body)


async def _close(bus: MessageBus | None) -> None:
    if bus is None:
        return
    try:
        if bus.connected:
            bus.disconnect()
            async with asyncio.timeout(_CONNECT_SECONDS):
                await _disconnected(bus)
    except (OSError, EOFError, TimeoutError) as error:
        log.debug("closing the bus: %s", error)
    finally:
        _release(bus)


def _release(bus: Any) -> None:
    """Close what dbus-fast before 2.0 leaves open until it is collected, long after the connection has ended."""
    opened, stream = getattr(bus, "_sock", None), getattr(bus, "_stream", None)
    if opened is None or opened.fileno() < 0:
        return
    loop = asyncio.get_running_loop()
    loop.remove_reader(opened.fileno())
    loop.remove_writer(opened.fileno())
    with contextlib.suppress(OSError):  # what could not be sent is lost with the connection
        if stream is not None:
            stream.close()
    opened.close()


async def _disconnected(bus: Any) -> None:
    """Wait until the bus is gone; raise why, if it was not asked for. (dbus-fast does not type it.)"""
    await bus.wait_for_disconnect()


def _translated(error: _Refused, verb: str, unit: UnitName) -> Exception:
    if error.name in _MISSING:
        return UnitMissing(unit)
    polkit_is_away = "polkit" in error.text.lower()  # masked, for one: the bus tells its unit, not what it means
    if error.name in _DENIED or polkit_is_away:
        return NotPermitted(verb, unit, error.text or error.name)
    return UnitFailed(verb, unit, error.text or error.name, f"systemctl status {unit}")


def _status(unit: UnitName, common: dict[str, Any], service: dict[str, Any]) -> UnitStatus:
    return UnitStatus(
        unit,
        description=str(common.get("Description", "")),
        active_state=str(common.get("ActiveState", "")),
        sub_state=str(common.get("SubState", "")),
        main_process_id=int(service.get("MainPID", 0)),
        restart_count=int(service.get("NRestarts", 0)),
        result=str(service.get("Result", "")),
        since_unix_seconds=int(common.get("StateChangeTimestamp", 0)) / 1e6,
    )


def _name_of(path: str) -> str:
    """Return the unit's name of its object path, where `_40` stands for `@`."""
    escaped = path.rpartition("/")[2]
    return re.sub(r"_([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), escaped)
