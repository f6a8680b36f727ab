"""Processes of the process back-end: started so that they outlive us, found again, waited for, ended."""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import clusterai

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.1  # where the kernel has no pidfd
_KILL_SECONDS = 10.0
_LOG_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND
_LEFT_OUT = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "JOURNAL_STREAM", "LISTEN_FDS", "LISTEN_PID")


@dataclass(frozen=True)
class Process:
    """A process that cannot be mistaken for a later one with the same number.

    `start_ticks` is field 22 of /proc/PID/stat (proc(5)), clock ticks since boot; `boot_id` tells boots apart.
    """

    process_id: int
    start_ticks: int
    boot_id: str
    started_unix_seconds: float

    @property
    def alive(self) -> bool:
        """Whether it still runs; one that ended and was not waited for does not."""
        return self.boot_id == boot_id() and _running_since(self.process_id) == self.start_ticks


def boot_id() -> str:
    """Return this boot's id; empty where the kernel hides it (then start times alone tell processes apart)."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _running_since(process_id: int) -> int | None:
    """Return when the process started, in ticks; None when there is none or it has ended."""
    try:
        fields = _stat_fields(process_id)
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _stat_fields(process_id: int) -> list[str]:
    """Return the fields of /proc/PID/stat (proc(5)) from the third, the state, on; raise OSError."""
    stat = Path(f"/proc/{process_id}/stat").read_text(errors="replace")
    return stat.rpartition(")")[2].split()  # the name before may hold anything


def spawn(kind: str, spec: Path, log_file: Path, *, die_with_us: bool) -> Process:
    """Start `python -m clusterai.launch` in a session of its own, writing to the log; raise OSError.

    `posix_spawn`, not `subprocess`: nothing of ours runs between fork and exec, where gRPC's threads would do harm,
    and no object of ours kills or awaits the child when this program ends.
    """
    tied = ["--die-with", str(os.getpid())] if die_with_us else []
    command = [sys.executable, "-P", "-m", "clusterai.launch", "--kind", kind, *tied, str(spec)]
    start = _spawned if hasattr(os, "posix_spawn") else _forked  # Android has it from API 28, Termux is built for 24
    process_id = start(command, log_file)
    since = _running_since(process_id)
    return Process(process_id, since if since is not None else -1, boot_id(), time.time())


def _spawned(command: list[str], log_file: Path) -> int:
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log_file), _LOG_FLAGS, 0o640),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    handled = (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    return os.posix_spawn(
        command[0], command, _variables(), file_actions=actions, setsid=True, setsigmask=(), setsigdef=handled
    )


def _forked(command: list[str], log_file: Path) -> int:
    log_descriptor = os.open(log_file, _LOG_FLAGS | os.O_CLOEXEC, 0o640)
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log_descriptor, stderr=log_descriptor, env=_variables(),
            start_new_session=True,
        )  # fmt: skip
    finally:
        os.close(log_descriptor)
    process.returncode = 0  # for this object it is over: the child's end is ours to await
    return process.pid


def _variables() -> dict[str, str]:
    """Ours, with the place of this very package, without what ties us to systemd."""
    variables = {name: value for name, value in os.environ.items() if name not in _LEFT_OUT}
    variables["PYTHONPATH"] = str(Path(clusterai.__file__).parents[1])
    return variables


async def ended(process: Process) -> str:
    """Wait until the process has ended and return how, in systemd's words; `unknown` when it is no child of ours."""
    await _until_ended(process)
    return _reap(process)


async def _until_ended(process: Process) -> None:
    try:
        descriptor = os.pidfd_open(process.process_id)
    except (AttributeError, OSError):  # no such call (Android before API 31, old kernels), or ended and reaped
        while process.alive:
            await asyncio.sleep(_POLL_SECONDS)
        return
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    try:
        if process.alive:  # else the number may be another's by now
            loop.add_reader(descriptor, over.set)
            await over.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _reap(process: Process) -> str:
    """Kill what the process left of its session, then take its exit status: until then its number is no one else's."""
    if not _is_child(process.process_id):
        return "unknown"
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.process_id, signal.SIGKILL)
    _, status = os.waitpid(process.process_id, 0)
    if os.WIFSIGNALED(status):
        return "signal"
    return "exit-code" if os.waitstatus_to_exitcode(status) else "success"


def _is_child(process_id: int) -> bool:
    """Whether the process, which may have ended, is a child of ours that was not waited for."""
    try:
        return int(_stat_fields(process_id)[1]) == os.getpid()
    except OSError:
        return False


async def end(process: Process, over: "asyncio.Future[str]", grace_seconds: float) -> None:
    """Ask the process to end, then make it; return when `over`, the task that waits for it, is done."""
    _send(process, signal.SIGTERM, os.kill)
    done, _ = await asyncio.wait([over], timeout=grace_seconds)
    if not done:
        log.warning("process %d did not end within %g s: killing it", process.process_id, grace_seconds)
        _send(process, signal.SIGKILL, os.killpg)
        await asyncio.wait([over], timeout=_KILL_SECONDS)


def hang_up(process: Process) -> bool:
    """Send SIGHUP; return whether the process was there to get it."""
    if not process.alive:
        return False
    _send(process, signal.SIGHUP, os.kill)
    return True


def _send(process: Process, number: int, send: Callable[[int, int], None]) -> None:
    if process.alive:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            send(process.process_id, number)
