"""Units as children of ours, for Termux, containers and `clusteraid local`: always restarted, found again after us."""

import asyncio
import contextlib
import dataclasses
import fcntl
import json
import logging
import os
import random
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Self

from clusterai.files import BadFile, CannotWrite, load_json, write_atomic
from clusterai.ids import UnitName
from clusterai.units import children
from clusterai.units.api import ChangeHub, UnitFailed, UnitMissing, UnitsConfig, UnitStatus, UnitsUnavailable
from clusterai.units.children import Process

log = logging.getLogger(__name__)

_UNIT = re.compile(r"(clusterai-([a-z]+))(?:@([a-z0-9](?:[a-z0-9-]{0,78}[a-z0-9])?))?\.service")
_DESCRIPTIONS = {
    "worker": "Cluster AI: Dask worker",
    "scheduler": "Cluster AI: Dask scheduler of the pool",
    "gate": "Cluster AI: gate of this node's Ollama",
    "mirror": "Cluster AI: way to the server's models",
}
STOP_SECONDS = 30.0
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 30.0
_STEADY_SECONDS = 60.0  # who ran this long starts again at the first delay
_LOG_LIMIT = 8 << 20
_LOG_LOOK_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class _Place:
    """What a unit's name stands for here."""

    unit: UnitName
    kind: str
    spec: Path
    log_file: Path
    record: Path


def restart_delay(attempt: int, jitter: float) -> float:
    """Return the seconds before restart `attempt` (from 0): doubling up to 30, spread by jitter in 0..1."""
    return min(_FIRST_DELAY * 2.0 ** min(attempt, 16), _LONGEST_DELAY) * (0.75 + jitter / 2)


class _Child:
    """One unit that is meant to run: its process, and the task that starts it again."""

    def __init__(self, place: _Place, hub: ChangeHub, *, die_with_us: bool) -> None:
        self._place, self._hub, self._die_with_us = place, hub, die_with_us
        self._process: Process | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._over: asyncio.Task[str] | None = None
        self._status = UnitStatus(place.unit, description=self._description())

    @property
    def status(self) -> UnitStatus:
        return self._status

    @property
    def kept(self) -> bool:
        """Whether it is meant to run."""
        return self._keeping is not None

    @property
    def waiting(self) -> bool:
        """Whether it ended and waits for its next start."""
        return self._status.active_state == "activating"

    def adopt(self, process: Process, restart_count: int) -> None:
        """Go on with a process that an earlier owner started."""
        log.info("%s still runs as process %d", self._place.unit, process.process_id)
        self._running(process, restart_count)
        self._keep()

    def start(self) -> None:
        """Start the process, and keep it running from now on."""
        try:
            self._spawn(0)
        except OSError as error:
            raise UnitFailed("start", self._place.unit, str(error), f"tail {self._place.log_file}") from error
        self._keep()

    async def stop(self) -> None:
        """End the process, and keep it so."""
        process, over = self._process, self._over
        self._note(active_state="deactivating", sub_state="stop-sigterm")
        if process is not None and over is not None:
            await children.end(process, over, STOP_SECONDS)
        if process is not None and process.alive:
            raise UnitFailed("stop", self._place.unit, "it does not die", f"ps -o stat,wchan -p {process.process_id}")
        await self.leave()
        self._place.record.unlink(missing_ok=True)
        self._note(active_state="inactive", sub_state="dead", main_process_id=0, since_unix_seconds=time.time())

    def reload(self) -> bool:
        """Ask the process to read its files anew; False when none runs."""
        return self._process is not None and children.hang_up(self._process)

    async def leave(self) -> None:
        """Stop watching; the process goes on and is found again by the next owner."""
        tasks = [task for task in (self._keeping, self._over) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._keeping = self._process = self._over = None

    def _keep(self) -> None:
        self._keeping = asyncio.create_task(self._keep_running(), name=f"keep {self._place.unit}")

    async def _keep_running(self) -> None:
        """Start again whatever the end was: Dask's processes exit with 0 when they lose each other."""
        attempt = 0
        while self._process is not None and self._over is not None:
            result = await self._over
            if self._status.active_state == "deactivating":
                return
            attempt = 0 if time.time() - self._process.started_unix_seconds > _STEADY_SECONDS else attempt
            await self._pause(result, restart_delay(attempt, random.random()))  # noqa: S311
            attempt += 1
            await self._respawn()

    async def _pause(self, result: str, seconds: float) -> None:
        log.warning("%s ended (%s); starting it again in %.1f s", self._place.unit, result, seconds)
        self._note(
            active_state="activating",
            sub_state="auto-restart",
            main_process_id=0,
            result=result,
            since_unix_seconds=time.time(),
        )
        await asyncio.sleep(seconds)

    async def _respawn(self) -> None:
        attempt = 0
        while True:
            try:
                return self._spawn(self._status.restart_count + 1)
            except OSError as error:
                log.error("cannot start %s: %s", self._place.unit, error)
                attempt += 1
                await asyncio.sleep(restart_delay(attempt, random.random()))  # noqa: S311

    def _spawn(self, restart_count: int) -> None:
        place = self._place
        place.log_file.parent.mkdir(parents=True, exist_ok=True)
        process = children.spawn(place.kind, place.spec, place.log_file, die_with_us=self._die_with_us)
        record = dataclasses.asdict(process) | {"restart_count": restart_count}
        with contextlib.suppress(CannotWrite):  # a full disk costs the adoption, not the work
            write_atomic(place.record, json.dumps(record).encode())
        self._running(process, restart_count)

    def _running(self, process: Process, restart_count: int) -> None:
        self._process = process
        self._over = asyncio.create_task(children.ended(process), name=f"wait for {self._place.unit}")
        self._note(
            active_state="active",
            sub_state="running",
            main_process_id=process.process_id,
            restart_count=restart_count,
            since_unix_seconds=process.started_unix_seconds,
            result="success",
        )

    def _note(self, **changes: object) -> None:
        self._status = dataclasses.replace(self._status, **changes)  # type: ignore[arg-type]
        self._hub.changed(self._place.unit)

    def _description(self) -> str:
        instance = self._place.unit.partition("@")[2].removesuffix(".service")
        return f"{_DESCRIPTIONS.get(self._place.kind, 'Cluster AI:')} {instance}".rstrip()


class ProcessUnits:
    """Units as processes of ours. One owner at a time holds the state directory."""

    back_end = "process"

    def __init__(self, config: UnitsConfig) -> None:
        self._config = config
        self._records = config.state_directory / "units"
        self._children: dict[UnitName, _Child] = {}
        self._locks: dict[UnitName, asyncio.Lock] = {}
        self._hub = ChangeHub()
        self._claim = -1
        self._trimming: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._claim = _claimed(self._records)
        for record in sorted(self._records.glob("*.json")):
            self._adopt(record)
        self._trimming = asyncio.create_task(self._trim_logs(), name="trim logs")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._trimming is not None:
            self._trimming.cancel()
            await asyncio.gather(self._trimming, return_exceptions=True)
        leaving = [child.stop() if self._config.stop_on_exit else child.leave() for child in self._children.values()]
        for outcome in await asyncio.gather(*leaving, return_exceptions=True):
            if isinstance(outcome, UnitFailed):
                log.error("%s", outcome)
        os.close(self._claim)

    async def start(self, unit: UnitName) -> None:
        """Start the process of the unit, and start it again whenever it ends."""
        place = self._place(unit)
        async with self._lock(unit):
            if unit in self._children and self._children[unit].waiting:
                await self._stop(unit)
            self._start(place)

    async def stop(self, unit: UnitName) -> None:
        """End the process: SIGTERM, and SIGKILL to its whole session after 30 s."""
        self._place(unit)
        async with self._lock(unit):
            await self._stop(unit)

    async def restart(self, unit: UnitName) -> None:
        """Stop, then start."""
        place = self._place(unit)
        async with self._lock(unit):
            await self._stop(unit)
            self._start(place)

    async def try_restart(self, unit: UnitName) -> None:
        """Stop, then start, if it runs."""
        place = self._place(unit)
        async with self._lock(unit):
            child = self._children.get(unit)
            if child is not None and child.kept:
                await child.stop()
                child.start()
            else:
                log.debug("%s does not run: nothing to restart", place.unit)

    async def reload(self, unit: UnitName) -> None:
        """Send SIGHUP to the process, if it runs."""
        self._place(unit)
        async with self._lock(unit):
            child = self._children.get(unit)
            if child is not None:
                child.reload()

    async def check_permission(self, unit: UnitName) -> None:
        """Our own children we may always control."""
        self._place(unit)

    async def status(self, unit: UnitName) -> UnitStatus:
        """Return how the process is."""
        try:
            place = self._place(unit)
        except UnitMissing:
            return UnitStatus(unit, installed=False, result="")
        child = self._children.get(unit) or _Child(place, self._hub, die_with_us=False)
        return child.status

    def changes(self) -> AsyncIterator[UnitName]:
        """Yield the names of units that changed."""
        return self._hub.listen()

    def _start(self, place: _Place) -> None:
        child = self._children.get(place.unit)
        if child is None:
            child = self._children[place.unit] = _Child(place, self._hub, die_with_us=self._config.stop_on_exit)
        if not child.kept:
            child.start()

    async def _stop(self, unit: UnitName) -> None:
        child = self._children.get(unit)
        if child is not None and child.kept:
            await child.stop()

    def _lock(self, unit: UnitName) -> asyncio.Lock:
        return self._locks.setdefault(unit, asyncio.Lock())

    def _place(self, unit: UnitName) -> _Place:
        match = _UNIT.fullmatch(unit)
        directory = self._config.launch_directories.get(match[1]) if match else None
        if match is None or directory is None:
            raise UnitMissing(unit)
        return _Place(
            unit,
            kind=match[2],
            spec=directory / f"{match[3] or match[2]}.json",
            log_file=self._config.log_directory / f"{unit}.log",
            record=self._records / f"{unit}.json",
        )

    def _adopt(self, record: Path) -> None:
        """Go on with the process of a record if it still runs; else forget it, as after a boot."""
        unit = UnitName(record.name.removesuffix(".json"))
        try:
            place, known = self._place(unit), load_json(record)
            restart_count = int(known.pop("restart_count"))
            process = Process(**known)
        except (UnitMissing, BadFile, TypeError, KeyError, ValueError) as error:
            log.warning("ignoring %s: %s", record, error)
            return
        if not process.alive:
            record.unlink(missing_ok=True)
            return
        child = self._children[unit] = _Child(place, self._hub, die_with_us=self._config.stop_on_exit)
        child.adopt(process, restart_count)

    async def _trim_logs(self) -> None:
        while True:
            await asyncio.sleep(_LOG_LOOK_SECONDS)
            for file in self._config.log_directory.glob("*.log"):
                await asyncio.to_thread(trim_log, file, _LOG_LIMIT)


def trim_log(file: Path, limit: int) -> bool:
    """Move a log's content to FILE.1 when it is larger than the limit; return whether it was.

    The writer has the file open for appending, so it goes on at the new end. Lines written in between are lost.
    """
    try:
        if file.stat().st_size <= limit:
            return False
        with file.open("rb+") as source:
            source.seek(-limit, os.SEEK_END)
            file.with_name(f"{file.name}.1").write_bytes(source.read())
            source.truncate(0)
    except OSError as error:
        log.warning("cannot trim %s: %s", file, error)
        return False
    return True


def _claimed(directory: Path) -> int:
    """Hold the directory until the descriptor is closed; the kernel lets go when we die."""
    descriptor = -1
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if descriptor >= 0:
            os.close(descriptor)
        taken = isinstance(error, BlockingIOError)
        reason = f"another program controls the units in {directory}" if taken else f"{directory}: {error.strerror}"
        raise UnitsUnavailable(reason, f"stop that program, or check who may write: ls -ld {directory}") from error
    return descriptor
