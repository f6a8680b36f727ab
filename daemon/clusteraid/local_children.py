"""The child processes of `clusteraid local`: none survives it, however it ends.

A child dies with us by PR_SET_PDEATHSIG (prctl(2)); what a dead child leaves becomes our child by
PR_SET_CHILD_SUBREAPER, so that it can be found and ended.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clusterai.errors import ClusterAIError, Status

_SUBREAPER = 36
_STOP_SECONDS, _KILL_SECONDS, _POLL_SECONDS = 40.0, 5.0, 0.05
_SHOWN_LINES, _SHOWN_BYTES = 5, 1 << 14
# In place of the command: ask the kernel for SIGTERM when the parent ends, then become the command.
_TIED = (
    "import ctypes,os,signal,sys;ctypes.CDLL(None).prctl(1,signal.SIGTERM);"
    "os.getppid()==int(sys.argv[1]) or sys.exit(1);os.execvp(sys.argv[2],sys.argv[2:])"
)


class ChildEnded(ClusterAIError):
    code, status = "child-ended", Status.FAILED
    message = "{name} ended ({how}); its last words:\n{words}"
    hint = "the whole log is {log}"


class CommandMissing(ClusterAIError):
    code, status = "command-missing", Status.USAGE
    message = "cannot run {command}: {reason}"
    hint = "give a program after --, such as: clusteraid local -- python3 my_program.py"


def become_subreaper() -> None:
    """Adopt what our children leave behind when they die."""
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


@dataclass
class Child:
    """A program of ours that is to run as long as we do, writing to a log file."""

    name: str
    log_file: Path
    process: asyncio.subprocess.Process

    @classmethod
    async def start(cls, name: str, command: Sequence[str], log_file: Path) -> "Child":
        """Start it in a session of its own: Ctrl-C on the terminal reaches only us."""
        if log_file.exists():
            log_file.replace(log_file.with_name(log_file.name + ".1"))
        with log_file.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *_tied(command), stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        return cls(name, log_file, process)

    async def ended(self) -> ChildEnded:
        """Wait until it has ended, which it should not, and return the error to raise."""
        status = await self.process.wait()
        how = f"signal {-status}" if status < 0 else f"exit code {status}"
        return ChildEnded(name=self.name, how=how, words=_last_words(self.log_file), log=self.log_file)

    async def stop(self) -> None:
        """Ask it to end, then make it."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self.process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()


async def run_command(command: Sequence[str], variables: Mapping[str, str]) -> asyncio.subprocess.Process:
    """Start the user's command on our terminal; raise CommandMissing when there is no such program."""
    path = variables.get("PATH", os.defpath)
    if not _found(command[0], path):
        raise CommandMissing(command=command[0], reason="no such program")
    return await asyncio.create_subprocess_exec(*_tied(command), env={**os.environ, **variables})


async def end_command(process: asyncio.subprocess.Process, *, asked: bool) -> None:
    """End the user's command. When the terminal's Ctrl-C has `asked` it already, it gets a moment by itself."""
    first = 0 if asked else signal.SIGTERM
    for number, seconds in ((first, _KILL_SECONDS), (signal.SIGTERM, 1.0), (signal.SIGKILL, _KILL_SECONDS)):
        if process.returncode is None and number:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await process.wait()
                return


async def end_leftovers() -> None:
    """End every process below us that is left, and reap it. Call when all known children have been waited for."""
    for number, seconds in ((signal.SIGTERM, _KILL_SECONDS), (signal.SIGKILL, _KILL_SECONDS)):
        deadline = time.monotonic() + seconds
        for process_id in _descendants():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process_id, number)
        while any(True for _ in _descendants()) and time.monotonic() < deadline:
            _reap()
            await asyncio.sleep(_POLL_SECONDS)


def _tied(command: Sequence[str]) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *command]


def _found(program: str, path: str) -> bool:
    import shutil

    return shutil.which(program, path=path) is not None


def _descendants() -> Iterator[int]:
    """The processes below this one, from /proc; those that have ended but were not waited for included."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    waiting = parents.get(os.getpid(), [])
    while waiting:
        process_id = waiting.pop()
        yield process_id
        waiting += parents.get(process_id, [])


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _last_words(log_file: Path) -> str:
    try:
        with log_file.open("rb") as file:
            file.seek(max(0, log_file.stat().st_size - _SHOWN_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        lines = []
    said = [line for line in lines if line.strip()][-_SHOWN_LINES:]
    return "\n".join(f"    {line}" for line in said) or "    (none)"
