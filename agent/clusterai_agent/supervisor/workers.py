"""Worker units on this machine: their launch files, and starting, stopping and restarting them."""

import hashlib
import json
import logging
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from pathlib import Path

import clusterai
from clusterai.errors import ClusterAIError
from clusterai.files import BadFile, load_json, make_shared, read_limited, remove, write_atomic
from clusterai.ids import UnitName
from clusterai.launch import WorkerLaunch
from clusterai.units import Units, UnitStatus
from clusterai.v1 import types_pb2 as types
from clusterai.v1.types_pb2 import WorkerState, WorkerStatus
from clusterai_agent.supervisor.desired import DesiredWorker

log = logging.getLogger(__name__)

_FILE_MODE = 0o640
_FILE_LIMIT = 1 << 16
_APPLIED = ".applied"


@dataclass(frozen=True)
class Ground:
    """What all workers of this node have in common."""

    environment: Path
    scheduler_address: str
    contact_address: str
    certificate: Path
    ca: Path
    scratch: Path


@dataclass
class Kept:
    """What is known of one worker between rounds: why it could not start, and a hash of the launch that it runs.

    `note` is what people should know of one that runs.
    """

    failure: str = ""
    applied: str = ""
    note: str = ""


def unit_of(worker_name: str) -> UnitName:
    """The worker's unit."""
    return UnitName(f"clusterai-worker@{worker_name}.service")


def launch_of(worker: DesiredWorker, ground: Ground) -> WorkerLaunch:
    """Return what the worker's unit shall start."""
    return WorkerLaunch(
        name=worker.name,
        environment=ground.environment,
        scheduler_address=ground.scheduler_address,
        thread_count=worker.thread_count,
        memory_limit_bytes=worker.memory_limit_bytes,
        resources=dict(worker.resources),
        cuda_visible_devices=worker.cuda_visible_devices,
        certificate=ground.certificate,
        ca=ground.ca,
        scratch=ground.scratch / worker.name,
        contact_address=ground.contact_address,
        preload=Path(clusterai.__file__).with_name("dask_preload.py"),
    )


class Workers:
    """All worker units of this node. Launch files in one directory are the record of what runs."""

    def __init__(self, directory: Path, units: Units) -> None:
        self._directory, self._units = directory, units
        self._kept: dict[str, Kept] = {name: Kept(applied=mark) for name, mark in self._read_applied().items()}

    def names(self) -> list[str]:
        """The workers that have a launch file: running, or meant to."""
        return sorted(path.stem for path in self._directory.glob("[a-z0-9]*.json"))

    def launch(self, name: str) -> WorkerLaunch | None:
        """Return the worker's launch as it lies on disk; None where there is none that can be read."""
        try:
            return WorkerLaunch.parse(read_limited(self._file(name), _FILE_LIMIT))
        except ClusterAIError:
            return None

    async def run(self, desired: Iterable[DesiredWorker], ground: Ground) -> None:
        """Make these workers run, and no others. One that runs as wanted is left alone."""
        wanted = {worker.name: worker for worker in desired}
        await self.stop_all_but(wanted)
        for worker in wanted.values():
            kept = self._kept.setdefault(worker.name, Kept())
            kept.failure = await _failure(self._settle(worker, ground, kept))

    async def stop_all_but(self, keep: Iterable[str]) -> None:
        """Stop the workers that are not among these, and forget them."""
        stale = (set(self.names()) | set(self._kept)) - set(keep)
        for name in sorted(stale):
            failure = await _failure(self._stop(name))
            if failure:
                self._kept.setdefault(name, Kept()).failure = failure

    async def statuses(self, desired: Iterable[DesiredWorker], waiting_for: str = "") -> list[WorkerStatus]:
        """Return how each worker is, the desired ones and those still there; `waiting_for` says why none can start."""
        wanted = {worker.name: worker for worker in desired}
        names = sorted({*wanted, *self.names()})
        return [await self._status(name, wanted.get(name), waiting_for) for name in names]

    async def process_id(self, name: str) -> int:
        """Return the process of a worker that runs; 0 for none, or where nobody can tell."""
        try:
            return (await self._units.status(unit_of(name))).main_process_id
        except ClusterAIError:
            return 0

    def note(self, name: str, text: str) -> None:
        """Say something of the worker beside its state, until it is stopped."""
        self._kept.setdefault(name, Kept()).note = text

    async def _settle(self, worker: DesiredWorker, ground: Ground, kept: Kept) -> None:
        """Bring one worker's unit to what is wanted: write what differs, then start or restart."""
        make_shared(self._directory)
        text = launch_of(worker, ground).to_json()
        mark = hashlib.sha256(text.encode()).hexdigest()[:16]
        if self._text(worker.name) != text:
            write_atomic(self._file(worker.name), text.encode(), _FILE_MODE)
        unit = unit_of(worker.name)
        status = await self._units.status(unit)
        if status.active_state in ("inactive", "failed"):
            log.info("starting worker %s", worker.name)
            await self._units.start(unit)
        elif kept.applied != mark:
            log.info("restarting worker %s: what it shall run has changed", worker.name)
            await self._units.restart(unit)
        if kept.applied != mark:
            kept.applied = mark
            self._write_applied()

    async def _stop(self, name: str) -> None:
        log.info("stopping worker %s", name)
        await self._units.stop(unit_of(name))
        remove(self._file(name))
        self._kept.pop(name, None)
        self._write_applied()

    async def _status(self, name: str, desired: DesiredWorker | None, waiting_for: str) -> WorkerStatus:
        kept = self._kept.get(name, Kept())
        try:
            unit = await self._units.status(unit_of(name))
        except ClusterAIError as error:
            return _described(name, desired, types.WORKER_STATE_FAILED, _sentence(error))
        state, reason = state_of(unit)
        if kept.failure:
            state, reason = types.WORKER_STATE_FAILED, kept.failure
        elif state == types.WORKER_STATE_STOPPED and waiting_for:
            reason = waiting_for
        elif kept.note and state != types.WORKER_STATE_STOPPED:
            reason = kept.note
        status = _described(name, desired, state, reason)
        status.process_id, status.since_unix_seconds = unit.main_process_id, unit.since_unix_seconds
        return status

    def _file(self, name: str) -> Path:
        return self._directory / f"{name}.json"

    def _text(self, name: str) -> str:
        try:
            return read_limited(self._file(name), _FILE_LIMIT).decode()
        except (BadFile, UnicodeDecodeError):
            return ""

    def _read_applied(self) -> dict[str, str]:
        try:
            marks = load_json(self._directory / _APPLIED)
        except BadFile:
            return {}
        return {name: mark for name, mark in marks.items() if isinstance(mark, str)}

    def _write_applied(self) -> None:
        marks = {name: kept.applied for name, kept in self._kept.items() if kept.applied}
        write_atomic(self._directory / _APPLIED, json.dumps(marks).encode(), _FILE_MODE)


def state_of(unit: UnitStatus) -> tuple[WorkerState, str]:
    """Return the worker's state and, where it is not as it should be, why."""
    if not unit.installed:
        return types.WORKER_STATE_FAILED, f"there is no unit {unit.unit}; reinstall the package clusterai-agent"
    match unit.active_state:
        case "active" | "reloading":
            return types.WORKER_STATE_RUNNING, ""
        case "activating" if unit.restart_count or unit.sub_state == "auto-restart":
            times = f"{unit.restart_count} time{'s' * (unit.restart_count != 1)}"
            reason = f"it ended ({unit.result or 'unknown'}) and is being restarted; restarted {times}"
            return types.WORKER_STATE_FAILED, reason
        case "activating":
            return types.WORKER_STATE_STARTING, ""
        case "failed":
            reason = f"its process ended: {unit.result or 'unknown'}; see `journalctl -u {unit.unit}`"
            return types.WORKER_STATE_FAILED, reason
        case _:
            return types.WORKER_STATE_STOPPED, ""


async def _failure(work: Awaitable[None]) -> str:
    """Do it, and return why it failed; empty when it did not."""
    try:
        await work
    except ClusterAIError as error:
        log.error("%s; %s", str(error), error.advice)
        return _sentence(error)
    return ""


def _sentence(error: ClusterAIError) -> str:
    return f"{error}; {error.advice}" if error.advice else str(error)


def _described(
    name: str, desired: DesiredWorker | None, state: WorkerState, reason: str
) -> WorkerStatus:
    status = WorkerStatus(worker_name=name, state=state, reason=reason[:1000])
    if desired is not None:
        status.thread_count, status.memory_limit_bytes = desired.thread_count, desired.memory_limit_bytes
    return status
