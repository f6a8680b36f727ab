"""What a test may leave behind in its own process, and how that is found out: nothing, and by looking."""

import asyncio
import gc
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

SETTLE_SECONDS = 3.0
_STEP_SECONDS = 0.01
_FILES = Path("/proc/self/fd")
_SOCKET_TABLES = ("tcp", "tcp6", "udp", "udp6", "unix")


@dataclass(frozen=True, order=True)
class Child:
    """A child process, known by its number: the command line is empty for a moment when it starts, and at its end."""

    process_id: int
    command: str = field(compare=False)

    def __str__(self) -> str:
        return f"{self.process_id} {self.command}"


@dataclass(frozen=True)
class Belongings:
    """What this process owns at one moment, each thing as a line that a person can read."""

    children: frozenset[Child]
    files: frozenset[str]
    threads: frozenset[str]
    temporary: frozenset[str]

    @classmethod
    def now(cls) -> "Belongings":
        """Look at this process."""
        return cls(
            children=frozenset(_children()),
            files=frozenset(_open_files()),
            threads=frozenset(_threads()),
            temporary=frozenset(os.listdir(tempfile.gettempdir())),  # noqa: PTH208
        )

    def beyond(self, earlier: "Belongings") -> list[str]:
        """Return what is here and was not there before, one line each."""
        return [
            f"{kind.name}: {thing}"
            for kind in fields(self)
            for thing in sorted(getattr(self, kind.name) - getattr(earlier, kind.name))
        ]


def left_behind(before: Belongings) -> list[str]:
    """Wait a bounded time until nothing is left that was not there before; return what is.

    Closing is not instant everywhere: gRPC frees a channel's sockets in a thread of its own, after the last reference.
    """
    left = Belongings.now().beyond(before)
    deadline = time.monotonic() + SETTLE_SECONDS
    while left and time.monotonic() < deadline:
        gc.collect()
        time.sleep(_STEP_SECONDS)
        left = Belongings.now().beyond(before)
    return [_with_socket_details(line) for line in left]


async def tasks_left(before: set[asyncio.Task[object]]) -> list[asyncio.Task[object]]:
    """Wait a bounded time until no task of this loop is left but the caller and those from before; return the rest."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while left := asyncio.all_tasks() - before - {asyncio.current_task()}:
        if time.monotonic() > deadline:
            return sorted(left, key=lambda task: task.get_name())
        await asyncio.sleep(_STEP_SECONDS)
    return []


def end_children(before: Belongings) -> None:
    """Kill and reap the children that were not there before, so that the next test starts clean."""
    for child in _children():
        if child not in before.children:
            os.kill(child.process_id, signal.SIGKILL)
            os.waitpid(child.process_id, 0)


def _children() -> Iterator[Child]:
    """Yield every child of this process, zombies too."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return
    for listing in Path("/proc/self/task").glob("*/children"):
        for process_id in _read(listing).split():
            command = _read(Path(f"/proc/{process_id}/cmdline")).replace("\0", " ").strip()
            yield Child(int(process_id), command or "(ended, not waited for)")


def _open_files() -> Iterator[str]:
    """Yield what each file descriptor points to, less what gRPC keeps for the life of the process."""
    own = _own_of_grpc() if "grpc" in sys.modules else frozenset()
    for name in os.listdir(_FILES):  # noqa: PTH208
        try:
            target = str((_FILES / name).readlink())
        except FileNotFoundError:  # the descriptor that lists them
            continue
        if target not in own and not (own and target.startswith("anon_inode:")):
            yield target


def _own_of_grpc() -> frozenset[str]:
    """Return the unnamed Unix sockets: with gRPC loaded one pair of them wakes its poller."""
    rows = (line.split() for line in _read(Path("/proc/self/net/unix")).splitlines()[1:])
    return frozenset(f"socket:[{row[6]}]" for row in rows if len(row) == 7) | {"anon_inode:"}


def _threads() -> Iterator[str]:
    """Yield this process's threads, less gRPC's poller and the test runner's own."""
    for thread in threading.enumerate():
        if "_poll_wrapper" not in thread.name and "execnet" not in repr(thread):
            yield f"{thread.name} ({thread.ident})"


def _with_socket_details(line: str) -> str:
    """Return the line with addresses behind a socket's number."""
    inode = line.partition("socket:[")[2].rstrip("]")
    for table in _SOCKET_TABLES if inode else ():
        for row in _read(Path(f"/proc/self/net/{table}")).splitlines()[1:]:
            if inode in row.split():
                return f"{line} {table} {' '.join(row.split()[1:4])}"
    return line


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # the process or the namespace is gone
        return ""
