"""Starting and stopping the programs that a benchmark needs, each on the processor that the benchmark gives it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self, cast

from support.tree import ROOT

STOP_SECONDS = 20
NEWEST = ROOT / ".venv-newest/bin/python"
_SUMS = ("connected", "beats", "sessions", "failures", "cpu_seconds")
_ROOTS = ("common", "daemon", "agent", "tests")


@dataclass(frozen=True)
class Place:
    """Which interpreter runs a program, and on which processors."""

    python: Path = Path(sys.executable)
    cpus: frozenset[int] = frozenset(os.sched_getaffinity(0))


class Program:
    """A Python module that runs as a child, its standard input held open; leaving the block ends it."""

    def __init__(
        self,
        module: str,
        *arguments: object,
        place: Place,
        log: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._command = [str(place.python), "-P", "-m", module, *map(str, arguments)]
        self._place, self._log = place, log
        own_modules = os.pathsep.join(str(ROOT / root) for root in _ROOTS)
        self._variables = {**os.environ, "PYTHONPATH": own_modules} if variables is None else variables
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        errors = self._log.open("a") if self._log else None
        try:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=self._variables,
            )
        finally:
            if errors:
                errors.close()
        os.sched_setaffinity(self.process_id, self._place.cpus)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def process_id(self) -> int:
        """The child's process id."""
        return self.process.pid

    @property
    def process(self) -> subprocess.Popen[str]:
        """The child."""
        if self._process is None:
            raise RuntimeError("not started")
        return self._process

    def read_line(self) -> str:
        """Return the next line of the child's standard output."""
        line = cast("IO[str]", self.process.stdout).readline()
        if not line:
            raise RuntimeError(f"{self._command[3]} ended: {self._last_words()}")
        return line.strip()

    def ask(self, question: str) -> str:
        """Send a line, return the line that answers it."""
        stdin = cast("IO[str]", self.process.stdin)
        stdin.write(question + "\n")
        stdin.flush()
        return self.read_line()

    def use(self, processors: frozenset[int]) -> None:
        """Move the child to these processors."""
        move(self.process_id, processors)

    def kill(self) -> None:
        """End the child as a power cut would."""
        self.process.kill()
        self.process.communicate()

    def stop(self) -> None:
        """Close its standard input and send SIGTERM; after a while kill it."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.communicate(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def _last_words(self) -> str:
        return self._log.read_text()[-2000:] if self._log else "see above"


def move(process_id: int, processors: frozenset[int]) -> None:
    """Move a process, with all its threads, to these processors."""
    for task in Path(f"/proc/{process_id}/task").iterdir():
        os.sched_setaffinity(int(task.name), processors)


@dataclass(frozen=True)
class FleetReport:
    """The sum over all agent processes."""

    connected: int
    beats: int
    sessions: int
    failures: int
    last_connected: float
    last_failure: str
    cpu_seconds: float


class Fleet:
    """Simulated agents in several processes: the clients' CPU is the limit, and a process has one event loop."""

    def __init__(
        self, target: str, identities: Path, count: int, *, place: Place, interval: float = 1.0, ramp: float = 1.0
    ) -> None:
        per_process = 1000
        common = ("--target", target, "--identities", identities, "--interval", interval, "--ramp", ramp)
        self._programs = [
            Program("load.agents", *common, "--first", first, "--count", min(per_process, count - first), place=place)
            for first in range(0, count, per_process)
        ]
        self.count = count

    def __enter__(self) -> Self:
        for program in self._programs:
            program.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        for program in self._programs:
            program.stop()

    def report(self) -> FleetReport:
        """Ask every process for its counters."""
        parts = [json.loads(program.ask("report")) for program in self._programs]
        failures = [part["last_failure"] for part in parts if part["last_failure"]]
        totals = {name: sum(part[name] for part in parts) for name in _SUMS}
        last = max(part["last_connected"] for part in parts)
        return FleetReport(**totals, last_connected=last, last_failure=next(iter(failures), ""))

    def use(self, processors: frozenset[int]) -> None:
        """Move all agents to these processors."""
        for program in self._programs:
            program.use(processors)

    def wait_connected(self, seconds: float, *, sessions: int = 0) -> FleetReport:
        """Wait until all agents have a session, and have had so many together: who is cut off notices it late."""
        deadline = time.monotonic() + seconds
        while (report := self.report()).connected < self.count or report.sessions < sessions:
            if time.monotonic() > deadline:
                raise RuntimeError(f"only {report.connected} of {self.count} connected: {report.last_failure}")
            time.sleep(0.2)
        return report


def split_processors() -> tuple[frozenset[int], frozenset[int]]:
    """Return the processor for what is measured and those for the load; the same where there is only one."""
    first, *others = sorted(os.sched_getaffinity(0))
    return frozenset({first}), frozenset(others or {first})

