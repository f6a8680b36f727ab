"""What units logged: from journald through `journalctl`, or from the process back-end's files."""

import asyncio
import contextlib
import json
import os
import re
import subprocess
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusterai.errors import ClusterAIError, Status
from clusterai.ids import UnitName
from clusterai.units.api import UnitsConfig

_UNIT = re.compile(r"[A-Za-z0-9@._:-]{1,255}")
_POLL_SECONDS = 0.5
_MESSAGE_LIMIT = 1 << 16
_LINE_LIMIT = 1 << 20
_TAIL_BYTES = 4 << 20
_STOP_SECONDS = 5.0
_DASK_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) - (\S+) - ([A-Z]+) - (.*)", re.DOTALL)
_OUR_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) ([A-Z]+) (.*)", re.DOTALL)
_PRIORITIES = {"CRITICAL": 2, "ERROR": 3, "WARNING": 4, "INFO": 6, "DEBUG": 7}
_INFO = 6


@dataclass(frozen=True)
class LogEntry:
    """One line. `time` is in Unix seconds, `priority` in syslog's 0 to 7."""

    time: float
    unit: UnitName
    priority: int
    message: str


class LogUnavailable(ClusterAIError):
    code, status = "log-unavailable", Status.FAILED
    message = "cannot read the log of {unit}: {reason}"
    hint = "{fix}"

    def __init__(self, unit: str, reason: str, fix: str = "") -> None:
        default = f"the user needs the group systemd-journal; try `journalctl -u {unit}` yourself"
        super().__init__(unit=unit, reason=reason, fix=fix or default)


async def read_log(
    unit: UnitName, *, line_count: int, follow: bool, units: UnitsConfig
) -> AsyncGenerator[LogEntry, None]:
    """Yield the last lines, oldest first, and with `follow` new ones for ever. Close it (`aclosing`) when done.

    Raises:
        LogUnavailable: no such log, or it may not be read.
    """
    if not _UNIT.fullmatch(unit) or unit.startswith("-"):
        raise LogUnavailable(unit[:80], "that is no unit's name", "`clusteractl unit list` shows the units")
    lines = _journal if units.back_end == "systemd" else _file
    async with contextlib.aclosing(lines(unit, line_count, follow, units)) as entries:
        async for entry in entries:
            yield entry


async def _journal(unit: UnitName, count: int, follow: bool, units: UnitsConfig) -> AsyncGenerator[LogEntry, None]:  # noqa: ARG001
    command = ["journalctl", "--output=json", "--no-pager", "--quiet", f"--unit={unit}", f"--lines={count}"]
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            *(["--follow"] if follow else []),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            limit=_LINE_LIMIT,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
    except OSError as error:
        raise LogUnavailable(unit, f"journalctl: {error.strerror}", "this machine has no systemd journal") from error
    try:
        async for entry in _parsed(process, unit):
            yield entry
        complaint = (await process.communicate())[1]
        if process.returncode:
            reason = complaint.decode(errors="replace").strip().splitlines()[-1:] or [f"status {process.returncode}"]
            raise LogUnavailable(unit, reason[0][:200])
    finally:
        await _end(process)


async def _parsed(process: asyncio.subprocess.Process, unit: UnitName) -> AsyncIterator[LogEntry]:
    assert process.stdout is not None
    while True:
        try:
            line = await process.stdout.readline()
        except ValueError:
            continue  # a line over the limit; asyncio has dropped it
        if not line:
            return
        with contextlib.suppress(ValueError):
            yield entry_of(json.loads(line), unit)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.communicate(), _STOP_SECONDS)
    if process.returncode is None:
        process.kill()
        await process.communicate()


def entry_of(record: Any, unit: UnitName) -> LogEntry:
    """Return the entry of journald's JSON (systemd.journal-fields(7)); raise ValueError when it is none."""
    if not isinstance(record, dict):
        raise ValueError("not a journal entry")  # noqa: TRY004
    message = record.get("MESSAGE")
    if isinstance(message, list):  # bytes that are no UTF-8
        message = bytes(byte for byte in message if type(byte) is int and 0 <= byte < 256).decode(errors="replace")
    priority = str(record.get("PRIORITY", _INFO))
    return LogEntry(
        int(record.get("__REALTIME_TIMESTAMP", 0)) / 1e6,
        unit,
        int(priority) if priority in "01234567" else _INFO,
        str(message or "")[:_MESSAGE_LIMIT],
    )


async def _file(unit: UnitName, count: int, follow: bool, units: UnitsConfig) -> AsyncGenerator[LogEntry, None]:
    path = units.log_directory / f"{unit}.log"
    if not path.exists() and not follow:
        raise LogUnavailable(unit, f"there is no {path}", "it has not been started yet")
    lines, position = await asyncio.to_thread(_tail, path, count)
    last = time.time()
    for line in lines:
        entry = parse_line(line, unit, last)
        last = entry.time
        yield entry
    rest = b""
    while follow:
        await asyncio.sleep(_POLL_SECONDS)
        data, position = await asyncio.to_thread(_grown, path, position)
        *complete, rest = (rest + data).split(b"\n")
        for line in complete:
            yield parse_line(line, unit, time.time())


def _tail(path: Path, count: int) -> tuple[list[bytes], int]:
    """Return the last lines and where the file ended; the rotated file before it helps when it is short."""
    lines: deque[bytes] = deque(maxlen=max(count, 0))
    position = 0
    for file in (path.with_name(f"{path.name}.1"), path):
        with contextlib.suppress(OSError), file.open("rb") as source:
            position = source.seek(0, os.SEEK_END)
            source.seek(max(0, position - _TAIL_BYTES))
            data = source.read()
            position = source.tell()
            lines.extend(data.splitlines())
    return list(lines), position if path.exists() else 0


def _grown(path: Path, position: int) -> tuple[bytes, int]:
    """Return what was written since; from the beginning after the file was trimmed."""
    try:
        with path.open("rb") as source:
            end = source.seek(0, os.SEEK_END)
            source.seek(position if position <= end else 0)
            data = source.read(_TAIL_BYTES)
            return data, source.tell()
    except OSError:
        return b"", 0


def parse_line(line: bytes, unit: UnitName, otherwise: float) -> LogEntry:
    """Return the entry of a line: its own time and level where it has them (Dask's form or ours)."""
    text = line.decode(errors="replace")[:_MESSAGE_LIMIT]
    if match := _DASK_LINE.fullmatch(text):
        when, millis, logger, level, message = match.groups()
        return _entry(when, millis, unit, level, f"{logger}: {message}", otherwise)
    if match := _OUR_LINE.fullmatch(text):
        when, millis, level, message = match.groups()
        return _entry(when, millis, unit, level, message, otherwise)
    return LogEntry(otherwise, unit, _INFO, text)


def _entry(when: str, millis: str, unit: UnitName, level: str, message: str, otherwise: float) -> LogEntry:
    try:
        seconds = time.mktime(time.strptime(when, "%Y-%m-%d %H:%M:%S")) + int(millis) / 1000
    except (ValueError, OverflowError):
        seconds = otherwise
    return LogEntry(seconds, unit, _PRIORITIES.get(level, _INFO), message)
